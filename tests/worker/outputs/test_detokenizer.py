"""Streamed text equals the tokenizer's own decoding, for every kind of vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from worker.outputs.detokenizer import (
    ByteDetokenizer,
    MlxLmDetokenizer,
    byte_level_alphabet,
    make_detokenizers,
)

TEXTS = [
    "plain words",
    "caf\u00e9 na\u00efve",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "e\u0301 combining",
    "\u05e9\u05dc\u05d5\u05dd  \u0645\u0631\u062d\u0628\u0627",
    "tabs\tand\nnew lines  and  spaces",
]


@pytest.fixture(scope="module")
def tokenizers(model_paths: dict[str, Path]) -> dict[str, TokenizerWrapper]:
    return {name: load_tokenizer(path) for name, path in model_paths.items()}


def stream(tokenizer: TokenizerWrapper, tokens: list[int]) -> list[str]:
    detokenizer = make_detokenizers(tokenizer)(False, ())
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_streamed_in_whole_characters(
    tokenizers: dict[str, TokenizerWrapper], text: str
) -> None:
    for tokenizer in tokenizers.values():
        tokens = tokenizer.encode(text, add_special_tokens=False)
        parts = stream(tokenizer, tokens)
        # Not the text itself: a tokenizer may normalise its input.
        assert "".join(parts) == tokenizer.decode(tokens)
        assert all("\ufffd" not in part for part in parts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 900), max_size=30))
def test_byte_level_text_equals_the_tokenizers_own_decoding_of_any_tokens(
    tokenizers: dict[str, TokenizerWrapper], tokens: list[int]
) -> None:
    for tokenizer in (tokenizers["llama"], tokenizers["qwen"]):
        assert "".join(stream(tokenizer, tokens)) == tokenizer.decode(
            tokens, clean_up_tokenization_spaces=False
        )


def test_known_vocabularies_are_decoded_as_bytes(tokenizers: dict[str, TokenizerWrapper]) -> None:
    for tokenizer in tokenizers.values():
        assert isinstance(make_detokenizers(tokenizer)(False, ()), ByteDetokenizer)


def test_special_tokens_are_decoded_to_their_text(
    tokenizers: dict[str, TokenizerWrapper],
) -> None:
    for tokenizer in tokenizers.values():
        special = tokenizer.bos_token or tokenizer.eos_token
        assert "".join(stream(tokenizer, [tokenizer.convert_tokens_to_ids(special)])) == special


def test_an_id_beyond_the_vocabulary_has_no_text(tokenizers: dict[str, TokenizerWrapper]) -> None:
    for tokenizer in tokenizers.values():
        assert "".join(stream(tokenizer, [len(tokenizer) + 5])) == ""


def test_other_vocabularies_use_mlx_lms_own_detokenizer() -> None:
    words = Tokenizer(WordPiece({"[UNK]": 0, "hel": 1, "##lo": 2, "world": 3}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    tokenizer = TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=words))
    assert isinstance(make_detokenizers(tokenizer)(False, ()), MlxLmDetokenizer)
    assert "".join(stream(tokenizer, [1, 2, 3])) == "hello world"


def test_the_byte_level_alphabet_equals_that_of_the_tokenizers_library() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(byte_level_alphabet().values()) == sorted(ByteLevel.alphabet())
