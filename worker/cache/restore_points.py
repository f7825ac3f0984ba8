"""Restore points: where the prefill of a prompt stops, so that other prompts can continue there.

A layer with a window or a recurrence can continue only from where its state was kept. A prompt
parts from an earlier one where the template says so (`worker.prompts.cache_breakpoints`), or
where clients change a line: a budget near the end, a date at the beginning. What a client changes
once it changes at each turn, so the next prompt of a conversation will part about as far from
its end as this one did. After Marconi (Pan et al. 2024) the place where two prompts have parted
is kept, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_PROMPTS = 64
# 4 MiB of token ids.
MAX_TOKENS = 1 << 20
CHUNK_TOKENS = 4096
# A restore point this close after another saves too little to stop for.
MIN_GAP_TOKENS = 32
# A changing line this far from the end is looked for there at the next turn.
MAX_TAIL_TOKENS = 4096
# The first differing token of a line moves a little from turn to turn, and a long text that
# changes is longer or shorter by up to about a part of it.
SLACK_TOKENS = 8
LONG_TAIL_TOKENS, LONGER_PART = 128, 4
# Where a line may change while nothing is known: so far from the end.
GUESSED_TAILS = (64, 256)
# So many new tokens make the guess worth its slice where no line has changed so far.
LONG_TURN_TOKENS = 512

Tokens = np.ndarray[Any, np.dtype[np.int32]]


class Parting(NamedTuple):
    """How many tokens a prompt has in common with the closest known one, and that one's length."""

    common: int = 0
    known_length: int = 0


class RestorePoints:
    """Plans the restore points of one model's prompts from those that it has had last."""

    def __init__(self) -> None:
        # Least recently used first.
        self._known: OrderedDict[int, Tokens] = OrderedDict()
        self._count = 0
        self._held_tokens = 0

    def plan(self, prompt: Sequence[int], cached: int, breakpoints: Sequence[int]) -> list[int]:
        """The positions in `prompt` to stop at, in order; `cached` tokens of it are restored.

        They are the `breakpoints` and what is guessed, each some way after what is cached.
        """
        tokens = np.fromiter(prompt, np.int32, len(prompt))
        number, parting = self._find(tokens)
        tails = expected_tails(parting, new_tokens=len(tokens) - cached)
        guesses = {parting.common, *(len(tokens) - tail for tail in tails)}
        self._note(number, parting, tokens)
        first = cached + MIN_GAP_TOKENS
        points = [end for end in breakpoints if first <= end < len(tokens)]
        for guess in sorted(guesses):
            if first <= guess < len(tokens) and not has_near(points, guess):
                points.append(guess)
        return sorted(points)

    def _find(self, tokens: Tokens) -> tuple[int | None, Parting]:
        """The closest known prompt, of several the one used last, and where this one parts."""
        best, closest = None, Parting()
        for number, known in reversed(self._known.items()):
            common = common_length(known, tokens)
            if common > closest.common:
                best, closest = number, Parting(common, len(known))
        return best, closest

    def _note(self, number: int | None, parting: Parting, tokens: Tokens) -> None:
        """Keep this prompt instead of the one that it goes on from."""
        if number is not None and is_next_turn(parting):
            self._remove(number)
        if len(tokens) > MAX_TOKENS:
            return
        self._count += 1
        self._known[self._count] = tokens
        self._held_tokens += len(tokens)
        while len(self._known) > MAX_PROMPTS or self._held_tokens > MAX_TOKENS:
            self._remove(next(iter(self._known)))

    def _remove(self, number: int) -> None:
        self._held_tokens -= len(self._known.pop(number))


def is_next_turn(parting: Parting) -> bool:
    """Whether a prompt parts from the known one so near its end that it goes on from it."""
    left = parting.known_length - parting.common
    return left <= min(MAX_TAIL_TOKENS, parting.known_length // 2)


def expected_tails(parting: Parting, *, new_tokens: int) -> list[int]:
    """How far from the end of a prompt the next one may part from it."""
    if not parting.common or not is_next_turn(parting):
        return list(GUESSED_TAILS)
    if tail := parting.known_length - parting.common:
        longer = [tail + tail // LONGER_PART] if tail >= LONG_TAIL_TOKENS else []
        return [tail + SLACK_TOKENS, *longer]
    return [GUESSED_TAILS[0]] if new_tokens >= LONG_TURN_TOKENS else []


def has_near(points: Sequence[int], guess: int) -> bool:
    """Whether another point is at most `MIN_GAP_TOKENS` before this guess, or right there."""
    return any(0 <= guess - point < MIN_GAP_TOKENS for point in points)


def common_length(first: Tokens, second: Tokens) -> int:
    """How many tokens two prompts have in common at their beginning."""
    length = min(len(first), len(second))
    for start in range(0, length, CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, length)
        differs = first[start:end] != second[start:end]
        if differs.any():
            return start + int(differs.argmax())
    return length
