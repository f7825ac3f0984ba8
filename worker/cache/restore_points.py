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
from typing import NamedTuple

import numpy as np

from worker.cache.known_prompts import Tokens, common_length

MAX_PROMPTS = 128
# 4 MiB of token ids.
MAX_TOKENS = 1 << 20
# Of prompts that have as much in common, so many are looked at.
MAX_CLOSEST = 3
# A restore point this close after another saves too little to stop for.
MIN_GAP_TOKENS = 16
# A changing line this far from the end is looked for there at the next turn.
MAX_TAIL_TOKENS = 4096
# The first differing token of a line moves a little from turn to turn: its value is longer, or what
# closes a tool's result follows it instead of what closes a user's message. A long text that
# changes is longer or shorter by up to about a part of it.
SLACK_TOKENS = 24
LONG_TAIL_TOKENS, LONGER_PART = 128, 4
# Where a line may change while nothing is known: so far from the end.
GUESSED_TAILS = (64, 256)
# So many new tokens make the guess worth its slice where no line has changed so far.
LONG_TURN_TOKENS = 512


class Known(NamedTuple):
    """A prompt, and how far from its end the next one was expected to part."""

    tokens: Tokens
    tails: Sequence[int] = ()


class RestorePoints:
    """Plans the restore points of one model's prompts from those that it has had last."""

    def __init__(self) -> None:
        # Least recently used first.
        self._known: OrderedDict[int, Known] = OrderedDict()
        self._count = 0
        self._held_tokens = 0

    def plan(self, prompt: Sequence[int], cached: int, breakpoints: Sequence[int]) -> list[int]:
        """The positions in `prompt` to stop at, in order; `cached` tokens of it are restored.

        They are the `breakpoints` and what is guessed, each some way after what is cached.
        """
        tokens = np.fromiter(prompt, np.int32, len(prompt))
        common, closest = self._find(tokens)
        tails = sorted(
            {
                tail
                for known in closest[:MAX_CLOSEST]
                for tail in expected_tails(common, known, tokens, new_tokens=len(tokens) - cached)
            }
            or set(GUESSED_TAILS if not closest else ())
        )
        self._note(Known(tokens, tails), [each for each in closest if len(each.tokens) == common])
        first = cached + MIN_GAP_TOKENS
        points = [end for end in breakpoints if first <= end < len(tokens)]
        for guess in sorted({common, *(len(tokens) - tail for tail in tails)}):
            if first <= guess < len(tokens) and not has_near(points, guess):
                points.append(guess)
        return sorted(points)

    def _find(self, tokens: Tokens) -> tuple[int, list[Known]]:
        """How much the closest known prompts have in common, and these, the shortest first.

        It ends nearest to where they part: others are branches that went on from there.
        """
        most, closest = 0, list[Known]()
        for known in reversed(self._known.values()):
            common = common_length(known.tokens, tokens)
            if common > most:
                most, closest = common, []
            if common == most > 0:
                closest.append(known)
        return most, sorted(closest, key=lambda known: len(known.tokens))

    def _note(self, known: Known, replaced: Sequence[Known]) -> None:
        """Keep this prompt, which begins with the `replaced` ones."""
        for number in [n for n, each in self._known.items() if any(each is r for r in replaced)]:
            self._remove(number)
        if len(known.tokens) > MAX_TOKENS:
            return
        self._count += 1
        self._known[self._count] = known
        self._held_tokens += len(known.tokens)
        while len(self._known) > MAX_PROMPTS or self._held_tokens > MAX_TOKENS:
            self._remove(next(iter(self._known)))

    def _remove(self, number: int) -> None:
        self._held_tokens -= len(self._known.pop(number).tokens)


def expected_tails(common: int, known: Known, tokens: Tokens, *, new_tokens: int) -> Sequence[int]:
    """How far from its end the prompt after this one may part from it.

    This one has `common` tokens in common with a known one.
    """
    known_length = len(known.tokens)
    if common == known_length == len(tokens):
        return known.tails
    tail = known_length - common
    if tail > min(MAX_TAIL_TOKENS, known_length // 2):
        # It does not go on from it.
        return GUESSED_TAILS
    if tail:
        longer = [tail + tail // LONGER_PART] if tail >= LONG_TAIL_TOKENS else []
        return [tail + SLACK_TOKENS, *longer]
    return GUESSED_TAILS[:1] if new_tokens >= LONG_TURN_TOKENS else ()


def has_near(points: Sequence[int], guess: int) -> bool:
    """Whether another point is at most `MIN_GAP_TOKENS` before this guess, or right there."""
    return any(0 <= guess - point < MIN_GAP_TOKENS for point in points)
