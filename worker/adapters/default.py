"""Takes what mlx-lm infers from the model's own files."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.calls.syntax import CallSyntax


class DefaultAdapter:
    """Adds nothing."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        return set()

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        return None

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        return ()
