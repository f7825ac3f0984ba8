"""A token's offset is where its text is, whatever the vocabulary adds to the text or changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from worker.outputs.detokenizer import ByteDetokenizer, make_detokenizers, make_token_bytes
from worker.outputs.parsers import control_texts_of
from worker.outputs.text_offsets import text_offsets

SPACE = "\u2581"
texts = st.text(st.sampled_from("ab c\n\u00e9\U0001f600\u8a9e<>s"), max_size=20)
Change = Callable[[Tokenizer], None]


def as_llama_2(tokenizer: Tokenizer) -> None:
    """A space before every text, which decoding drops."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def as_metaspace(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")


def unchanged(tokenizer: Tokenizer) -> None:
    pass


CHANGES: dict[str, tuple[str, Change]] = {
    "gemma": ("gemma", unchanged),
    "llama 2": ("gemma", as_llama_2),
    "metaspace": ("gemma", as_metaspace),
    "llama 3": ("llama", unchanged),
}


@pytest.fixture(scope="module")
def tokenizers(model_paths: dict[str, Path]) -> dict[str, TokenizerWrapper]:
    made = {}
    for name, (family, change) in CHANGES.items():
        path = model_paths[family]
        settings: dict[str, Any] = json.loads((path / "tokenizer_config.json").read_text())
        backend = Tokenizer.from_file(str(path / "tokenizer.json"))
        change(backend)
        tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
        made[name] = TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=backend, **tokens))
    return made


def offsets_of(tokenizer: TokenizerWrapper, text: str, ids: list[int]) -> list[int]:
    token_bytes, control = make_token_bytes(tokenizer), control_texts_of(tokenizer)
    absent = {index for index, id in enumerate(ids) if id in control}
    return list(text_offsets(text, [token_bytes(id) for id in ids], absent))


@pytest.mark.parametrize("name", CHANGES)
@given(text=texts)
def test_every_token_of_a_text_starts_where_the_one_before_it_ends(
    tokenizers: dict[str, TokenizerWrapper], name: str, text: str
) -> None:
    tokenizer = tokenizers[name]
    ids = tokenizer.encode(text)
    token_bytes, control = make_token_bytes(tokenizer), control_texts_of(tokenizer)
    rebuilt = b""
    for id, offset in zip(ids, offsets_of(tokenizer, text, ids), strict=True):
        before = text[:offset].encode()
        # The tokens of one character start at it, or after it.
        assert abs(len(before) - len(rebuilt)) < 4
        if id in control and not text.encode().startswith(token_bytes(id), len(rebuilt)):
            continue
        spelled = token_bytes(id)
        is_added = not text.encode().startswith(spelled, len(rebuilt))
        rebuilt += spelled.removeprefix(b" ") if is_added else spelled
    assert rebuilt.decode() == text


@pytest.mark.parametrize("name", ["gemma", "llama 2", "metaspace"])
def test_the_words_of_sentencepiece_start_at_their_spaces(
    tokenizers: dict[str, TokenizerWrapper], name: str
) -> None:
    tokenizer, text = tokenizers[name], "the cat is on the mat"
    ids = tokenizer.encode(text)
    token_bytes = make_token_bytes(tokenizer)
    for id, offset in zip(ids[1:], offsets_of(tokenizer, text, ids)[1:], strict=True):
        spelled = token_bytes(id).decode()
        assert text.startswith(spelled if offset else spelled.removeprefix(" "), offset)


def test_a_vocabulary_of_metaspace_is_decoded_as_bytes(
    tokenizers: dict[str, TokenizerWrapper],
) -> None:
    tokenizer = tokenizers["metaspace"]
    detokenizer = make_detokenizers(tokenizer)(True, ())
    assert isinstance(make_detokenizers(tokenizer)(False, ()), ByteDetokenizer)
    ids = tokenizer.encode("the cat", add_special_tokens=False)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == "the cat"


def test_offsets_count_characters_and_skip_tokens_outside_the_text() -> None:
    tokens = [b"<bos>", b"a", b"\xf0\x9f", b"\x98\x80", b" b"]
    assert list(text_offsets("a\U0001f600 b", tokens, {0})) == [0, 0, 1, 2, 2]


def test_after_a_character_that_was_normalised_the_offsets_are_right_again(
    qwen_path: Path,
) -> None:
    tokenizer, text = load_tokenizer(qwen_path), "e\u0301 and then"
    ids = tokenizer.encode(text)
    last = make_token_bytes(tokenizer)(ids[-1]).decode()
    assert text.endswith(last)
    assert offsets_of(tokenizer, text, ids)[-1] == len(text) - len(last)


def test_an_added_control_token_is_not_found_further_on() -> None:
    assert list(text_offsets("a <s>", [b"<s>", b"a", b" ", b"<s>"], {0, 3})) == [0, 0, 1, 2]
