"""Takes what mlx-lm infers from the model's own files."""

from __future__ import annotations

from mlx_lm.tokenizer_utils import TokenizerWrapper


class DefaultAdapter:
    """Adds nothing."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        return set()

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        return None
