"""The lower bound on a text's tokens: never above the tokens, and close to them for long texts."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from protocol.messages import ChatPrompt, Sampling, Submit, TextPrompt, TokenPrompt
from worker.demo import demo_model_path
from worker.outputs.detokenizer import make_token_bytes
from worker.prompt_errors import PromptError
from worker.prompts.builder import PromptBuilder
from worker.prompts.token_bound import NFC_INERT, TokenBound

CONTEXT = 1000
# Marks that NFC joins to the letter before, Hangul letters, singletons, spaces of all kinds,
# private-use characters, special tokens, and runs that merge into long tokens.
PIECES = st.sampled_from([
    "e\u0301", "\u0301", "\u0338>", "K\u0327", "\u212a", "\u1100\u1161\u11a8",
    "\u2126\u0313\u0300\u0345", " ", "\n\n", "\u00a0", "\u3000", "\u2581", "\U000f0000", "\ue000",
    "<|eot_id|>", "<|im_end|>",
    "<end_of_turn>", "hello", " the the", "        ", "bbbbbbbb", "漢字", "\U0001f600", "\x00",
])  # fmt: skip
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = st.lists(st.tuples(PIECES | CHARACTERS, st.integers(1, 30))).map(
    lambda runs: "".join(piece * count for piece, count in runs)
)


def bound_of(tokenizer: TokenizerWrapper) -> TokenBound:
    return TokenBound(tokenizer, make_token_bytes(tokenizer))


@pytest.fixture(scope="module", params=["demo", "llama", "qwen", "gemma"])
def tokenizer(request: pytest.FixtureRequest, model_paths: dict[str, Path]) -> TokenizerWrapper:
    name = request.param
    return load_tokenizer(demo_model_path() if name == "demo" else model_paths[name])


@pytest.fixture(scope="module")
def bound(tokenizer: TokenizerWrapper) -> TokenBound:
    return bound_of(tokenizer)


@pytest.fixture(scope="module")
def builder(tokenizer: TokenizerWrapper, bound: TokenBound) -> PromptBuilder:
    return PromptBuilder(
        tokenizer,
        vocabulary_size=len(tokenizer),
        context_length=CONTEXT,
        token_bound=bound,
    )


@given(text=TEXTS)
def test_a_text_has_at_least_as_many_tokens_as_the_bound(
    tokenizer: TokenizerWrapper, builder: PromptBuilder, bound: TokenBound, text: str
) -> None:
    at_least = bound.at_least(text)
    assert at_least <= len(tokenizer.encode(text, add_special_tokens=False))
    assert at_least <= len(builder.build(ChatPrompt([{"role": "user", "content": f".{text}."}])))


@pytest.mark.parametrize("piece", ["b", " ", "the quick brown fox ", "漢字仮名", "\U0001f600"])
def test_a_text_far_beyond_the_context_is_refused_by_its_bytes(
    builder: PromptBuilder, piece: str
) -> None:
    text = piece * (200 * CONTEXT // len(piece.encode()))
    for prompt in (
        TextPrompt(text),
        TextPrompt("a", suffix=text),
        ChatPrompt([{"role": "user", "content": f".{text}."}]),
    ):
        with pytest.raises(PromptError) as caught:
            builder.check_length(Submit(1, "m", prompt, Sampling(0), 1))
        assert caught.value.code == "context_length_exceeded"
        assert "at least" in caught.value.message


def test_the_length_of_token_ids_is_exact(builder: PromptBuilder) -> None:
    builder.check_length(Submit(1, "m", TokenPrompt([1] * (CONTEXT - 1)), Sampling(0), 1))
    with pytest.raises(PromptError) as caught:
        builder.check_length(Submit(1, "m", TokenPrompt([1] * CONTEXT), Sampling(0), 1))
    assert f"has {CONTEXT} in the prompt" in caught.value.message


def test_nfc_changes_no_text_of_inert_characters() -> None:
    inert = [c for c in map(chr, range(sys.maxunicode + 1)) if NFC_INERT.fullmatch(c)]
    assert len(inert) > 30_000
    known = [c for c in inert if unicodedata.category(c) != "Cn"]
    assert [c for c in known if unicodedata.normalize("NFC", c) != c] == []
    assert [c for c in known if unicodedata.combining(c)] == []
    # A character that ends the decomposition of another one combines with what is before it.
    last = {
        unicodedata.normalize("NFD", c)[-1]
        for c in map(chr, range(0xD800))
        if len(unicodedata.normalize("NFD", c)) > 1 and unicodedata.normalize("NFC", c) == c
    }
    assert last.isdisjoint(inert)


UNSAFE: dict[str, Callable[[Tokenizer], None]] = {
    "compatibility": lambda t: setattr(t, "normalizer", normalizers.NFKC()),
    "strip": lambda t: setattr(t, "normalizer", normalizers.Strip()),
    "shorter": lambda t: setattr(t, "normalizer", normalizers.Replace("aaaa", "a")),
    "words": lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
    "removed": lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Split(" ", "removed")),
    "unknown": lambda t: setattr(t, "model", models.BPE({"<unk>": 0, "a": 1}, [], fuse_unk=True)),
    "word level": lambda t: setattr(t, "model", models.WordLevel({"<unk>": 0}, "<unk>")),
}


@pytest.mark.parametrize("change", UNSAFE)
def test_nothing_is_proven_where_text_can_be_lost(llama_path: Path, change: str) -> None:
    tokenizer = load_tokenizer(llama_path)
    assert bound_of(tokenizer).at_least("a" * 1000) > 0
    UNSAFE[change](tokenizer.backend_tokenizer)
    assert bound_of(tokenizer).at_least("a" * 1000) == 0


def test_white_space_is_not_counted_if_a_token_takes_it(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    tokenizer.backend_tokenizer.add_tokens([AddedToken("@@", lstrip=True, rstrip=True)])
    text = " " * 1000 + "@@" + "\u3000" * 1000
    assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
    assert bound_of(tokenizer).at_least(text) <= 1
