"""A lower bound on the number of tokens of a text, from counts of its bytes alone.

Each token of a byte vocabulary stands for its bytes, and together they stand for the whole text.
So if no token has more than four bytes `b`, a million of them are at least 250,000 tokens; the
same holds for the letters, the spaces, or any other set of bytes. This refuses a prompt far
beyond the context without its tokenization, which takes seconds and a hundred times the memory.

The bound is given only where it is proven: for byte-level vocabularies and SentencePiece's with
byte fallback, whose normalizer and pre-tokenizer drop nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

SENTENCEPIECE_SPACE = "\u2581"
BYTES = 256
TOKENS_PER_CHUNK = 4096
BYTES_PER_CHUNK = 1 << 20
# Pre-tokenizers that only split the text, or also add to it.
KEEPING_SPLITS = frozenset({"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split"})
# NFC leaves these characters as they are, wherever they stand: it changes none of them, and none
# combines with the one before. ASCII to Latin Extended-B, Cyrillic letters, punctuation, kana,
# ideographs, Hangul syllables, emoji.
NFC_INERT = re.compile(
    "[\u0000-\u02ff\u0400-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e\u2190-\u21ff"
    "\u2500-\u2a00\u3000-\u3029\u3030-\u3098\u309b-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
    "\uff00-\uffef\U0001f000-\U0001faff]*"
)
# NFC shortens a text to a third at most (a Hangul syllable of three letters).
NFC_FACTOR = 4
# transformers (5.23) marks special tokens in messages with two of these, and drops the client's.
PRIVATE_USE = re.compile("[\U000f0000-\U000fffff]")
WHITE_SPACE = re.compile(r"\s+")

Counts = np.ndarray[Any, np.dtype[np.int64]]


class TokenBound:
    """The bound for one tokenizer. Made on first use, which takes some 0.3 s for 150,000 tokens."""

    def __init__(self, tokenizer: TokenizerWrapper, token_bytes: Callable[[int], bytes]) -> None:
        self._tokenizer = tokenizer
        self._token_bytes = token_bytes

    def at_least(self, text: str) -> int:
        """A number of tokens that the text has at least; 0 if nothing is proven."""
        if not self._is_proven or not text:
            return 0
        if not text.isascii():
            text = PRIVATE_USE.sub("", text)
            if self._spaces_are_replaced:
                text = text.replace(SENTENCEPIECE_SPACE, " ")
        if self._swallows_space:
            text = WHITE_SPACE.sub("", text)
        counts = count_bytes(text.encode("utf-8", "surrogatepass"))
        if self._composes and NFC_INERT.fullmatch(text) is None:
            return self._bound_of_composed(text, counts)
        sums = np.concatenate([counts, sums_of(counts[None])[0]])
        return int(np.ceil(sums / self._most).max())

    def _bound_of_composed(self, text: str, counts: Counts) -> int:
        """The bound for a text that NFC may shorten.

        A character beyond ASCII can take one ASCII character with it.
        """
        others = sum(int(n) for n in counts[0xC0:])
        ascii_counts = np.maximum(counts - others, 0)
        ascii_counts[0x80:] = 0
        whole = -(-int(counts.sum()) // (NFC_FACTOR * int(self._most[BYTES])))
        return max(int(np.ceil(ascii_counts / self._most[:BYTES]).max()), whole)

    # ------------------------------------------------------------ the tokenizer

    @cached_property
    def _steps(self) -> list[dict[str, Any]]:
        return steps_of(self._tokenizer.backend_tokenizer.normalizer)

    @cached_property
    def _is_proven(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or type(backend.model).__name__ != "BPE":
            return False
        model = backend.model
        if model.continuing_subword_prefix or model.end_of_word_suffix:
            return False
        splits = steps_of(backend.pre_tokenizer)
        if not all(keeps_text(step) for step in splits):
            return False
        if not all(is_safe_normalizer(step) for step in self._steps):
            return False
        by_level = any(step["type"] == "ByteLevel" for step in splits)
        return (by_level or bool(model.byte_fallback)) and self._has_all_bytes

    @cached_property
    def _has_all_bytes(self) -> bool:
        """Whether each byte is a token, so that no text is unknown."""
        single = {data[0] for data in self._vocabulary if len(data) == 1}
        # UTF-8 has no bytes from 0xF5 on, nor 0xC0 and 0xC1.
        return set(range(0xF5)) - {0xC0, 0xC1} <= single

    @cached_property
    def _composes(self) -> bool:
        return any(step["type"] == "NFC" for step in self._steps)

    @cached_property
    def _spaces_are_replaced(self) -> bool:
        splits = steps_of(self._tokenizer.backend_tokenizer.pre_tokenizer)
        return any(step["type"] in {"Replace", "Metaspace"} for step in [*self._steps, *splits])

    @cached_property
    def _swallows_space(self) -> bool:
        """Whether an added token takes the white space around it."""
        added = self._tokenizer.added_tokens_decoder.values()
        return any(token.lstrip or token.rstrip for token in added)

    @cached_property
    def _vocabulary(self) -> list[bytes]:
        space = SENTENCEPIECE_SPACE.encode()
        ids = self._tokenizer.get_vocab().values()
        return [self._token_bytes(id).replace(space, b" ") for id in ids]

    @cached_property
    def _most(self) -> Counts:
        """The most of each byte, and of each set of bytes, that one token has; at least 1."""
        most = np.ones(BYTES + len(BYTE_SETS), np.int64)
        for start in range(0, len(self._vocabulary), TOKENS_PER_CHUNK):
            counts = counts_of(self._vocabulary[start : start + TOKENS_PER_CHUNK])
            most[:BYTES] = np.maximum(most[:BYTES], counts.max(axis=0))
            most[BYTES:] = np.maximum(most[BYTES:], sums_of(counts).max(axis=0))
        return most


def byte_sets() -> Counts:
    """Rows of zeros and ones: all bytes, letters and digits, white space, the other ASCII bytes,
    the first bytes of longer characters, and all bytes of these."""
    byte = np.arange(BYTES)
    word = np.array([chr(b).isalnum() and b < 0x80 for b in range(BYTES)])
    space = np.isin(byte, [9, 10, 13, 32])
    other = (byte < 0x80) & ~word & ~space
    sets = [byte >= 0, word, space, other, byte >= 0xC0, byte >= 0x80, ~space]
    return np.array(sets, np.int64)


BYTE_SETS = byte_sets()


def sums_of(counts: Counts) -> Counts:
    """The sums of each row of counts over each of `BYTE_SETS`."""
    return counts @ BYTE_SETS.T


def counts_of(pieces: list[bytes]) -> Counts:
    """How often each byte occurs in each piece."""
    data = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int64)
    rows = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    counts = np.bincount(rows * BYTES + data, minlength=len(pieces) * BYTES)
    return counts.reshape(len(pieces), BYTES).astype(np.int64)


def count_bytes(data: bytes) -> Counts:
    """How often each byte occurs."""
    counts = np.zeros(BYTES, np.int64)
    for start in range(0, len(data), BYTES_PER_CHUNK):
        chunk = np.frombuffer(data, np.uint8, min(BYTES_PER_CHUNK, len(data) - start), start)
        counts += np.bincount(chunk, minlength=BYTES)
    return counts


def steps_of(component: Any) -> list[dict[str, Any]]:
    """The steps of a tokenizer's normalizer or pre-tokenizer."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return list(flatten([state]))


def flatten(steps: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The steps, with those of each sequence in its place."""
    for step in steps:
        if step["type"] == "Sequence":
            yield from flatten(step.get("normalizers") or step.get("pretokenizers") or [])
        else:
            yield step


def keeps_text(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer drops no text."""
    return step["type"] in KEEPING_SPLITS and step.get("behavior") != "Removed"


def is_safe_normalizer(step: dict[str, Any]) -> bool:
    """Whether a normalizer is NFC, adds text, or writes spaces as SentencePiece does."""
    match step:
        case {"type": "NFC" | "Prepend"}:
            return True
        case {"type": "Replace", "pattern": {"String": " "}, "content": content}:
            return bool(content == SENTENCEPIECE_SPACE)
        case _:
            return False
