"""A model's vocabulary in the form that llguidance reads and the sandbox receives."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from llguidance import LLTokenizer

if TYPE_CHECKING:
    # This import takes seconds and loads MLX; the sandbox does not need it.
    from mlx_lm.tokenizer_utils import TokenizerWrapper


class Vocabulary(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """A tokenizer as Hugging Face's JSON, the model's number of tokens, and its stop tokens."""

    tokenizer_json: str
    size: int
    stop_token_ids: list[int]

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """llguidance's tokenizer. Creating it holds the GIL: 0.7 s for 150,000 tokens."""
        return LLTokenizer(self.tokenizer_json, n_vocab=self.size, eos_token=self.stop_token_ids)


def make_vocabulary(
    tokenizer: TokenizerWrapper, size: int, stop_token_ids: Iterable[int]
) -> Vocabulary | None:
    """The vocabulary of a fast tokenizer that has a stop token; None for any other tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    stop_token_ids = sorted(token for token in stop_token_ids if token < size)
    if backend is None or not stop_token_ids:
        return None
    plain = copy(backend)
    plain.no_padding()
    plain.no_truncation()
    return Vocabulary(plain.to_str(), size, stop_token_ids)
