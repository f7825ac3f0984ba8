"""The markers around a model's reasoning, and others that are no text of an answer."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper


@dataclass(frozen=True, slots=True)
class Markers:
    """A model's markers: those of its think block ("": it has none), and others to drop.

    `content_start` is dropped from the beginning of an answer.
    """

    think_start: str = ""
    think_end: str = ""
    structural: tuple[str, ...] = ()
    content_start: str = ""


# Markers that mlx-lm (0.32.2) does not infer, because it looks at the vocabulary only, or not
# for them. A model has the first of these whose markers its chat template or vocabulary has.
KNOWN_MARKERS = (
    Markers("<think>", "</think>"),
    Markers("<seed:think>", "</seed:think>"),
    Markers("<mm:think>", "</mm:think>"),
    Markers("<think:opensource>", "</think:opensource>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<|inner_prefix|>", "<|inner_suffix|>"),
    # Command R7B; Command A Reasoning.
    Markers("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    Markers("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_TEXT|>", "<|END_TEXT|>")),
    # Apriel.
    Markers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    Markers("<thinking>", "</thinking>"),
    # Solar Open: messages of a think block and of content.
    Markers("<|think|>", "<|end|>", ("<|begin|>assistant", "<|content|>")),
)
# Markers of content alone, by a word of the chat template.
CONTENT_MARKERS = {">>>all": Markers(structural=(">>>all\n",), content_start="all\n")}


def find_markers(tokenizer: TokenizerWrapper) -> Markers:
    """The markers of this tokenizer's model."""
    if tokenizer.think_start:
        return Markers(tokenizer.think_start, tokenizer.think_end, tokenizer.structural_markers)
    template = tokenizer.chat_template
    template = template if isinstance(template, str) else ""
    for word, markers in CONTENT_MARKERS.items():
        if word in template:
            return markers
    vocabulary = tokenizer.get_vocab()
    template = template.replace("think{}>", "think:opensource>")
    for markers in KNOWN_MARKERS:
        if all_in(template, markers) or all_in(vocabulary, markers):
            return markers
    return Markers(structural=tokenizer.structural_markers)


def all_in(texts: Container[str], markers: Markers) -> bool:
    """Whether all of these markers are there."""
    needed = (markers.think_start, markers.think_end, *markers.structural)
    return all(marker in texts for marker in needed)
