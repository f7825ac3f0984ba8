"""A model's vocabulary as llguidance reads it, and as the checking process is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from llguidance import LLTokenizer

if TYPE_CHECKING:
    # Importing it takes seconds and MLX: the process that checks grammars does without.
    from mlx_lm.tokenizer_utils import TokenizerWrapper


class Vocabulary(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """A tokenizer in Hugging Face's JSON, the model's number of tokens, and those that end it."""

    tokenizer: str
    size: int
    ends: list[int]

    @cached_property
    def tokens(self) -> LLTokenizer:
        """llguidance's own view. Making it holds the interpreter lock: 0.7 s for 150,000 tokens."""
        return LLTokenizer(self.tokenizer, n_vocab=self.size, eos_token=self.ends)


def make_vocabulary(
    tokenizer: TokenizerWrapper, size: int, ends: Iterable[int]
) -> Vocabulary | None:
    """The vocabulary of a fast tokenizer whose answers can end; None for any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    ends = sorted(end for end in ends if end < size)
    if backend is None or not ends:
        return None
    plain = copy(backend)
    plain.no_padding()
    plain.no_truncation()
    return Vocabulary(plain.to_str(), size, ends)
