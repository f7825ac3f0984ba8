"""Fill-in-the-middle: the special tokens of models trained to write between two texts.

All of these families put the prefix first, then the suffix, and are then asked
for the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper

# Prefix, suffix, middle. Sources: the models' own tokenizer_config.json.
KNOWN_TRIPLES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen 2.5 Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    (
        "<\uff5cfim▁begin\uff5c>",
        "<\uff5cfim▁hole\uff5c>",
        "<\uff5cfim▁end\uff5c>",
    ),  # DeepSeek Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """The three token ids of one tokenizer."""

    prefix: int
    suffix: int
    middle: int

    def join(self, before: list[int], after: list[int]) -> list[int]:
        """The prompt that asks for what stands between these two."""
        return [self.prefix, *before, self.suffix, *after, self.middle]


def find_fill_in_middle(tokenizer: TokenizerWrapper) -> FillInMiddle | None:
    """The tokenizer's fill-in-the-middle tokens; None where it has none that are known."""
    vocabulary = tokenizer.get_vocab()
    for names in KNOWN_TRIPLES:
        ids = [vocabulary.get(name) for name in names]
        if all(isinstance(token, int) for token in ids):
            return FillInMiddle(*ids)
    return None
