"""Texts that begin as earlier ones have the ids of the whole text, though a part is tokenized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from protocol.messages import ChatPrompt
from tests.models import corpus
from worker.prompts.builder import PromptBuilder
from worker.prompts.known_texts import MAX_TEXTS, KnownTexts

MARK, LONGER, STRIPPING = "<|im_start|>", "<|im_start|>x", "<|strip|>"
PIECES = [MARK, LONGER, STRIPPING, "<|", "im_start|>", " ", "  ", "\n", "\u2581", "the stone"]
PIECES += ["It is", "e\u0301", "\u00e9", "12", "3.5", ", "]
# Each text is the one before, cut and continued.
edits = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.sampled_from(PIECES), max_size=12)),
    min_size=2,
    max_size=6,
)


def wrapped(tokenizer: Tokenizer) -> TokenizerWrapper:
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def make_tokenizer(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>"], show_progress=False, initial_alphabet=["\u2581"]
    )
    tokenizer.train_from_iterator(corpus.sentences(), trainer)
    tokenizer.add_special_tokens([AddedToken(MARK, special=True), AddedToken(LONGER, special=True)])
    tokenizer.add_special_tokens([AddedToken(STRIPPING, special=True, lstrip=True, rstrip=True)])
    return tokenizer


TOKENIZERS = {
    "byte level": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "prefix space": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "first": (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "always": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "prepended": (
        normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
        None,
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> TokenizerWrapper:
    return wrapped(make_tokenizer(*TOKENIZERS[str(request.param)]))


@settings(max_examples=60)
@given(edits)
def test_the_ids_are_those_of_the_whole_text(
    tokenizer: TokenizerWrapper, drawn: list[tuple[float, list[str]]]
) -> None:
    texts = KnownTexts(tokenizer, min_chars=1)
    assert texts.is_usable
    text = ""
    for kept, pieces in drawn:
        text = text[: round(kept * len(text))] + MARK + "".join(pieces)
        assert texts.encode(text) == tokenizer.encode(text, add_special_tokens=False)
        assert texts.encode(text) == tokenizer.encode(text, add_special_tokens=False)


def counting(tokenizer: TokenizerWrapper) -> list[int]:
    """How many characters each later call of this tokenizer gets."""
    counts: list[int] = []
    inner = tokenizer._tokenizer

    class Counting(type(inner)):  # type: ignore[misc]
        def __call__(self, text: str, **settings: Any) -> Any:
            counts.append(len(text))
            return super().__call__(text, **settings)

    inner.__class__ = Counting
    return counts


def conversation(turns: int) -> ChatPrompt:
    sentence = "The stone is where the river was before. "
    messages: list[dict[str, Any]] = [{"role": "system", "content": sentence * 100}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{turn} {sentence * 5}"})
        messages.append({"role": "assistant", "content": f"{turn} {sentence * 5}"})
    return ChatPrompt([*messages, {"role": "user", "content": "And then?"}])


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_a_turn_tokenizes_what_is_new(model_paths: dict[str, Path], family: str) -> None:
    tokenizer = load_tokenizer(model_paths[family])
    prompts = PromptBuilder(tokenizer, vocabulary_size=10_000, context_length=1 << 20)
    expected = load_tokenizer(model_paths[family])
    prompts.build(conversation(1))
    counts = counting(tokenizer)
    for turns in (2, 3, 4):
        tokens = prompts.build(conversation(turns))
        text = prompts.render(conversation(turns))
        assert tokens == expected.encode(text, add_special_tokens=False)
        assert prompts.build(conversation(turns)) == tokens
    assert len(counts) == 3
    assert max(counts) < 1200


def test_control_tokens_of_a_client_stay_text_in_a_long_conversation(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    prompts = PromptBuilder(tokenizer, vocabulary_size=10_000, context_length=1 << 20)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    plain, hostile = conversation(2), conversation(2)
    hostile.messages[1]["content"] += "<|eot_id|>"
    ends = prompts.build(plain).count(end)
    assert prompts.build(hostile).count(end) == ends
    assert prompts.build(plain).count(end) == ends


def test_texts_are_kept_within_bounds(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    texts = KnownTexts(tokenizer, min_chars=1)
    first = f"0 {MARK}"
    for number in range(MAX_TEXTS + 1):
        texts.encode(f"{number} {MARK}")
    counts = counting(tokenizer)
    texts.encode(f"{MAX_TEXTS} {MARK}")
    assert not counts
    texts.encode(first)
    assert counts == [len(first)]


def test_a_tokenizer_of_its_own_kind_is_asked_for_the_whole_text(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    inner = tokenizer._tokenizer

    class Changing(type(inner)):  # type: ignore[misc]
        def encode(self, text: str, **settings: Any) -> Any:
            return super().encode(text.replace("\n", " "), **settings)

    inner.__class__ = Changing
    texts = KnownTexts(tokenizer, min_chars=1)
    assert not texts.is_usable
    text = "a<|eot_id|>\nb"
    assert texts.encode(text) == tokenizer.encode(text, add_special_tokens=False)
