"""The prompts that a model has computed, as token ids alone: what a new prompt has in common.

The prompt cache knows what is still cached. This also knows what was evicted, or could not be
cached, so that a reply can say where its prompt parted from an earlier one. A prompt replaces the
one that it goes on from, so a conversation is one entry, however many turns it has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# 4 MiB of token ids; of longer prompts only the first part is known.
MAX_TOKENS = 1 << 20
MAX_PROMPTS = 64
CHUNK_TOKENS = 4096

Tokens = np.ndarray[Any, np.dtype[np.int32]]


class Closest(NamedTuple):
    """How many tokens a prompt has in common with the closest known one.

    `differs` says that the known prompt goes on with another token, not that it ends there.
    """

    tokens: int = 0
    differs: bool = False


NOTHING_KNOWN = Closest()


class KnownPrompts:
    """The most recently used prompts of one model, within bounds."""

    def __init__(self, max_tokens: int = MAX_TOKENS, max_prompts: int = MAX_PROMPTS) -> None:
        self._max_tokens = max_tokens
        self._max_prompts = max_prompts
        # By a number of their own, least recently used first.
        self._prompts: OrderedDict[int, Tokens] = OrderedDict()
        self._number = 0
        self._held_tokens = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def note(self, tokens: Sequence[int]) -> Closest:
        """What is in common with the closest known prompt; from now on this one is known, too.

        `tokens` are a prompt, or a prompt and its answer.
        """
        noted = np.fromiter(tokens[: self._max_tokens], np.int32)
        number, closest = self._find(noted)
        if number is not None and closest.tokens == len(noted):
            self._prompts.move_to_end(number)
            return closest
        if number is not None and closest.tokens == len(self._prompts[number]):
            self._remove(number)
        self._number += 1
        self._prompts[self._number] = noted
        self._held_tokens += len(noted)
        while len(self._prompts) > self._max_prompts or self._held_tokens > self._max_tokens:
            self._remove(next(iter(self._prompts)))
        return closest

    def _remove(self, number: int) -> None:
        self._held_tokens -= len(self._prompts.pop(number))

    def _find(self, tokens: Tokens) -> tuple[int | None, Closest]:
        """The number of the closest prompt, of several the one used last, and what is common."""
        best: int | None = None
        closest = Closest(0, differs=bool(self._prompts))
        for number in reversed(self._prompts):
            known = self._prompts[number]
            common = common_length(known, tokens)
            if common > closest.tokens:
                differs = common < min(len(known), len(tokens))
                best, closest = number, Closest(common, differs)
            if common == len(tokens):
                break
        return best, closest


def common_length(first: Tokens, second: Tokens) -> int:
    """How many tokens two prompts have in common at their beginning."""
    length = min(len(first), len(second))
    for start in range(0, length, CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, length)
        differs = first[start:end] != second[start:end]
        if differs.any():
            return start + int(differs.argmax())
    return length
