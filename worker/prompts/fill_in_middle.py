"""Fill-in-the-middle: prompts for models that were trained to generate text before a suffix.

All supported families use the order prefix, suffix, middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper

# The prefix, suffix and middle tokens. Sources: the models' own tokenizer_config.json.
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
    """The ids of one tokenizer's fill-in-the-middle tokens."""

    prefix: int
    suffix: int
    middle: int

    def join(self, prefix_ids: list[int], suffix_ids: list[int]) -> list[int]:
        """The prompt for the text between a prefix and a suffix."""
        return [self.prefix, *prefix_ids, self.suffix, *suffix_ids, self.middle]


def find_fill_in_middle(tokenizer: TokenizerWrapper) -> FillInMiddle | None:
    """The tokenizer's fill-in-the-middle tokens; None if it has no known ones."""
    vocabulary = tokenizer.get_vocab()
    for names in KNOWN_TRIPLES:
        ids = [vocabulary.get(name) for name in names]
        if all(isinstance(token, int) for token in ids):
            return FillInMiddle(*ids)
    return None
