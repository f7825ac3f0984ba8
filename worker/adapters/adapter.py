"""What an adapter answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.calls.syntax import CallSyntax


@runtime_checkable
class ModelAdapter(Protocol):
    """The facts of one model family, asked once when a model is loaded."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        """Token ids that end an answer, beyond those the model's own files name."""

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        """A Jinja chat template for a tokenizer that carries none, or None."""

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        """How the family writes tool calls where mlx-lm does not know, its own way first."""
