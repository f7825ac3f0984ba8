"""A lower bound on the number of tokens of a text, for vocabularies whose tokens end with a word.

White space parts words before BERT's pieces and SentencePiece's unigrams are found, so each word
with a character that no normalizer drops has a token at least. BERT also parts punctuation and
ideographs from what is around them. This refuses a text far beyond the context without its
tokenization. `worker.prompts.token_bound` has the bound for byte vocabularies.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES = 256
SPACES = [9, 10, 13, 32]
PRINTABLE = range(33, 127)
# The first bytes of U+5000 to U+9FFF in UTF-8, which are ideographs.
IDEOGRAPHS = range(0xE5, 0xEA)
BYTES_PER_CHUNK = 1 << 20
# They only split the text, at white space at least.
UNIGRAM_SPLITS = frozenset({"Metaspace", "WhitespaceSplit"})
# They drop no printable character of ASCII, and join no words.
KEEPING_NORMALIZERS = frozenset(
    {
        "BertNormalizer",
        "Lowercase",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Nmt",
        "Precompiled",
        "Prepend",
        "Strip",
        "StripAccents",
    }
)
# What XLM-RoBERTa's tokenizers make of spaces.
SPACE_PATTERNS = ({"String": " "}, {"Regex": " {2,}"})
SPACE_CONTENTS = (" ", "\u2581")

Flags = NDArray[np.bool_]


class WordBound:
    """The bound for one tokenizer, as transformers has it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def at_least(self, text: str) -> int:
        """A number of tokens that the text has at least; 0 if nothing is proven."""
        if self._kind is None or not text:
            return 0
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        words = count_words(data, self._counted)
        if self._kind == "WordPiece":
            return max(words, count(data, self._alone))
        longest = self._longest_piece
        if longest is None or not text.isascii():
            return words
        return max(words, -(-count(data, PRINTABLE_FLAGS) // longest))

    @cached_property
    def _kind(self) -> str | None:
        """The kind of vocabulary, where the bound is proven."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or backend.pre_tokenizer is None or self._swallows_space:
            return None
        if not all(map(keeps_words, steps_of(backend.normalizer))):
            return None
        kind = type(backend.model).__name__
        splits = steps_of(backend.pre_tokenizer)
        names = {step["type"] for step in splits}
        if kind == "WordPiece" and names == {"BertPreTokenizer"}:
            return kind
        parts_words = any(step.get("split", True) for step in splits)
        return kind if kind == "Unigram" and names <= UNIGRAM_SPLITS and parts_words else None

    @cached_property
    def _counted(self) -> Flags:
        """The bytes of characters that part words, and of those that make one.

        SentencePiece's own splits are at spaces alone.
        """
        splits = steps_of(self._tokenizer.backend_tokenizer.pre_tokenizer)
        at_spaces_alone = all(step["type"] == "Metaspace" for step in splits)
        return PRINTABLE_FLAGS | flags_of([ord(" ")] if at_spaces_alone else SPACES)

    @cached_property
    def _swallows_space(self) -> bool:
        """Whether a text may have a token of several words: control tokens of a text are text."""
        added = self._tokenizer.added_tokens_decoder.values()
        return any(not token.special for token in added)

    @cached_property
    def _alone(self) -> Flags:
        """The bytes of characters that are words of their own."""
        flags = PUNCTUATION_FLAGS.copy()
        steps = steps_of(self._tokenizer.backend_tokenizer.normalizer)
        flags[list(IDEOGRAPHS)] = any(step.get("handle_chinese_chars") is True for step in steps)
        return flags

    @cached_property
    def _longest_piece(self) -> int | None:
        """The most characters of a piece; None where a printable one of ASCII may be unknown."""
        pieces = self._tokenizer.get_vocab()
        if any(chr(byte) not in pieces for byte in PRINTABLE):
            return None
        return max(map(len, pieces))


def steps_of(component: Any) -> list[dict[str, Any]]:
    """The steps of a tokenizer's normalizer or pre-tokenizer, of which one may be a sequence."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    steps: list[dict[str, Any]] = state.get("normalizers") or state.get("pretokenizers") or [state]
    return steps


def keeps_words(step: dict[str, Any]) -> bool:
    """Whether a normalizer leaves each word with a printable character of ASCII one."""
    if step["type"] == "Replace":
        return step["pattern"] in SPACE_PATTERNS and step["content"] in SPACE_CONTENTS
    return step["type"] in KEEPING_NORMALIZERS


def flags_of(values: list[int] | range) -> Flags:
    """Which bytes are among the values."""
    flags = np.zeros(BYTES, np.bool_)
    flags[list(values)] = True
    return flags


PRINTABLE_FLAGS = flags_of(PRINTABLE)
PUNCTUATION_FLAGS = flags_of([byte for byte in PRINTABLE if not chr(byte).isalnum()])


def count(data: NDArray[np.uint8], flags: Flags) -> int:
    """How many bytes have a flag."""
    chunks = range(0, len(data), BYTES_PER_CHUNK)
    return sum(int(flags[data[at : at + BYTES_PER_CHUNK]].sum()) for at in chunks)


def count_words(data: NDArray[np.uint8], counted: Flags) -> int:
    """How many words have a printable character of ASCII.

    `counted` are these, and what parts words. Others may be dropped, so that they part nothing.
    """
    words, after_space = 0, True
    for at in range(0, len(data), BYTES_PER_CHUNK):
        chunk = data[at : at + BYTES_PER_CHUNK]
        printable = PRINTABLE_FLAGS[chunk[counted[chunk]]]
        if not len(printable):
            continue
        words += int((printable[1:] & ~printable[:-1]).sum()) + int(printable[0] and after_space)
        after_space = not printable[-1]
    return words
