"""The tiny models suit the tests: their text varies, splits characters and is reproducible."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlx_lm import load
from mlx_lm.generate import BatchGenerator

from tests import oracle
from tests.models import families
from tests.prompts import PROMPTS as ALL_PROMPTS

# Half of them show it as well, but for the rarest characters.
PROMPTS = ALL_PROMPTS[::2]
ANSWER_TOKENS = 64
BRIEF_TOKENS = 192
DISTINCT_TOKENS = 32
RESUME_AFTER_TOKENS = 28

TEXTS = (
    "naïve café, über señor",
    "日本語 中文 한국어",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀😀",
    "ไทย हिन्दी עברית نور",
    "  two  spaces\n\n\tand tabs 1984!?",
)


@pytest.fixture(params=["llama", "qwen", "gemma"])
def path(request: pytest.FixtureRequest, model_paths: dict[str, Path]) -> Path:
    return model_paths[request.param]


def test_greedy_text_varies(path: Path) -> None:
    distinct = {
        prompt: len(
            set(oracle.greedy_tokens(path, oracle.text_tokens(path, prompt), ANSWER_TOKENS))
        )
        for prompt in PROMPTS
    }

    assert {prompt for prompt, count in distinct.items() if count < DISTINCT_TOKENS} == set()


def test_answers_to_different_prompts_differ(path: Path) -> None:
    answers = {
        oracle.greedy_text(path, oracle.text_tokens(path, prompt), ANSWER_TOKENS)
        for prompt in PROMPTS
    }

    assert len(answers) == len(PROMPTS)


def test_answers_never_end_with_a_stop_token(path: Path) -> None:
    answers = [
        oracle.greedy(path, oracle.text_tokens(path, prompt), ANSWER_TOKENS) for prompt in PROMPTS
    ]

    assert {answer.finish_reason for answer in answers} == {"length"}
    assert {len(answer.tokens) for answer in answers} == {ANSWER_TOKENS}


def test_answers_of_the_brief_model_mostly_end_with_a_stop_token(brief_path: Path) -> None:
    answers = batched(brief_path, PROMPTS, BRIEF_TOKENS)
    ended = [tokens for tokens, reason in answers if reason == "stop"]

    assert len(ended) > len(answers) / 2
    assert len({len(tokens) for tokens in ended}) > 1


def test_greedy_text_has_characters_of_several_tokens(path: Path) -> None:
    text = "".join(text_of(path, tokens) for tokens, _ in batched(path, ALL_PROMPTS, ANSWER_TOKENS))

    for character in families.SPLIT_CHARACTERS:
        assert character in text
        assert len(oracle.tokenizer(path).encode(character, add_special_tokens=False)) > 1
    # At most the last character of each answer is incomplete.
    assert text.count("\ufffd") <= len(ALL_PROMPTS)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_restores_the_encoded_text(path: Path, text: str) -> None:
    tokens = oracle.tokenizer(path).encode(text, add_special_tokens=False)

    assert oracle.decode(path, tokens) == text


def test_combining_characters_are_restored_or_composed(
    model_paths: dict[str, Path],
) -> None:
    combining, composed = "e\u0301", "\u00e9"
    decoded = {
        name: oracle.decode(
            path, oracle.tokenizer(path).encode(combining, add_special_tokens=False)
        )
        for name, path in model_paths.items()
    }

    assert decoded == {"llama": combining, "qwen": composed, "gemma": combining}


def test_every_byte_is_a_token(path: Path) -> None:
    vocabulary = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    fallback = {f"<0x{byte:02X}>" for byte in range(256)}
    single_characters = {token for token in vocabulary if len(token) == 1}

    assert fallback <= set(vocabulary) or len(single_characters) == 256


def test_the_chat_template_ends_with_the_header_of_the_answer(path: Path) -> None:
    tokens = oracle.chat_tokens(path, [{"role": "user", "content": "Hello there"}])
    text = oracle.decode(path, tokens)

    assert "Hello there" in text
    assert text.rstrip("\n").endswith(("assistant", "assistant<|end_header_id|>", "model"))


def test_an_answer_in_a_batch_equals_the_answer_alone(path: Path) -> None:
    alone = [
        oracle.greedy_tokens(path, oracle.text_tokens(path, prompt), ANSWER_TOKENS)
        for prompt in PROMPTS
    ]

    answers = dict(zip(ALL_PROMPTS, batched(path, ALL_PROMPTS, ANSWER_TOKENS), strict=True))
    assert [answers[prompt][0] for prompt in PROMPTS] == alone


def test_an_answer_resumed_from_its_tokens_equals_the_whole_answer(path: Path) -> None:
    prompts = [oracle.text_tokens(path, prompt) for prompt in PROMPTS[::4]]
    whole = [oracle.greedy_tokens(path, prompt, ANSWER_TOKENS) for prompt in prompts]
    beginnings = [tokens[:RESUME_AFTER_TOKENS] for tokens in whole]

    resumed = [
        oracle.greedy_tokens(path, prompt + tokens, ANSWER_TOKENS - RESUME_AFTER_TOKENS)
        for prompt, tokens in zip(prompts, beginnings, strict=True)
    ]

    assert [first + rest for first, rest in zip(beginnings, resumed, strict=True)] == whole


def test_a_model_is_the_same_each_time_it_is_made(llama_path: Path, tmp_path: Path) -> None:
    again = families.make(families.LLAMA, tmp_path / "again")

    for file in sorted(llama_path.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_loading_prints_nothing(model_paths: dict[str, Path]) -> None:
    paths = [str(path) for path in model_paths.values()]
    program = f"from mlx_lm import load\nfor path in {paths!r}: load(path)"

    loading = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )

    assert (loading.returncode, loading.stdout, loading.stderr) == (0, "", "")


@functools.cache
def batched(
    path: Path, prompts: Sequence[str], most_tokens: int
) -> Sequence[tuple[list[int], str]]:
    """mlx-lm's answers to the prompts, in one batch, and why each ended: "stop" or "length"."""
    model, tokenizer = load(str(path))
    stops = [[token] for token in tokenizer.eos_token_ids]
    generator = BatchGenerator(model, max_tokens=most_tokens, stop_tokens=stops)
    uids = generator.insert([oracle.text_tokens(path, prompt) for prompt in prompts])
    answers: dict[int, list[int]] = {uid: [] for uid in uids}
    reasons: dict[int, str] = {}
    while len(reasons) < len(uids):
        _, responses = generator.next()
        for response in responses:
            answers[response.uid].append(response.token)
            if response.finish_reason is not None:
                reasons[response.uid] = response.finish_reason
    generator.close()
    return [(answers[uid], reasons[uid]) for uid in uids]


def text_of(path: Path, tokens: Sequence[int]) -> str:
    """The text of an answer by mlx-lm's detokenizer."""
    detokenizer = oracle.tokenizer(path).detokenizer
    for token in tokens:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return str(detokenizer.text)
