"""Restore points: where the prefill of a prompt stops, so that other prompts can continue there.

A layer with a window or a recurrence can continue only from where its state was kept. A prompt
parts from an earlier one where the template says so (`worker.prompts.cache_breakpoints`), or
where clients change a line: a budget near the end, a date at the beginning. What a client changes
once it changes at each turn, so the next prompt of a conversation will part about as far from
its end as this one did. After Marconi (Pan et al. 2024) the place where two prompts have parted
is kept, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.cache.known_prompts import Comparison, Match

# A restore point this close after another saves too little to stop for.
MIN_GAP_TOKENS = 16
# A changing line this far from the end is looked for there at the next turn.
MAX_TAIL_TOKENS = 4096
# The first differing token of a line moves a little from turn to turn: its value is longer, or what
# closes a tool's result follows it instead of what closes a user's message. A long text that
# changes is longer or shorter by up to about a part of it.
SLACK_TOKENS = 24
LONG_TAIL_TOKENS, LONGER_PART = 128, 4
# How many places where a line has changed are kept in mind after it changes elsewhere.
MAX_KEPT_TAILS = 2
# Where a line may change while nothing is known: so far from the end.
GUESSED_TAILS = (64, 256)
# So many new tokens make the guess worth its slice where no line has changed so far.
LONG_TURN_TOKENS = 512


def plan_restore_points(
    comparison: Comparison, cached: int, breakpoints: Sequence[int]
) -> list[int]:
    """The positions in a prompt to stop at, in order; `cached` tokens of it are restored.

    They are the `breakpoints` and what is guessed, each some way after what is cached. The prompt
    remembers how far from its end it is guessed.
    """
    prompt = comparison.prompt
    prompt.tails = tails = expect_tails(comparison, new_tokens=prompt.length - cached)
    first = cached + MIN_GAP_TOKENS
    points = [end for end in breakpoints if first <= end < prompt.length]
    common = comparison.closest.tokens
    for guess in sorted({common, *(prompt.length - tail for tail in tails)}):
        if first <= guess < prompt.length and not has_near(points, guess):
            points.append(guess)
    return sorted(points)


def expect_tails(comparison: Comparison, *, new_tokens: int) -> Sequence[int]:
    """How far from its end the prompt after this one may part from it."""
    closest = [match for match in comparison.matches if match.common == comparison.closest.tokens]
    if not comparison.closest.tokens:
        return GUESSED_TAILS
    goes_on = min(closest, key=lambda match: match.tail)
    if not goes_on.tail:
        known = goes_on.known
        if known.length == comparison.prompt.length:
            # The same prompt again.
            return known.tails
        return GUESSED_TAILS[:1] if new_tokens >= LONG_TURN_TOKENS else ()
    # A branch may have more in common than what this prompt goes on from: that has changed the
    # line which the branch does not have.
    earlier = [m for m in comparison.matches if m.tail and 2 * m.common > comparison.closest.tokens]
    nearest = min(earlier, key=lambda match: match.tail)
    tails = {*tails_after(goes_on), *tails_after(nearest)}
    return sorted(tails)


def tails_after(match: Match) -> Sequence[int]:
    """How far from its end the prompt after this one may part, if it goes on from the known one."""
    tail, known = match.tail, match.known
    if tail > min(MAX_TAIL_TOKENS, known.length // 2):
        # It does not go on from it.
        return GUESSED_TAILS
    if tail < LONG_TAIL_TOKENS:
        return [tail + SLACK_TOKENS]
    # A long text has changed, or a message was edited: then the line that changes is where it was.
    return [*known.tails[:MAX_KEPT_TAILS], tail + SLACK_TOKENS, tail + tail // LONGER_PART]


def has_near(points: Sequence[int], guess: int) -> bool:
    """Whether another point is at most `MIN_GAP_TOKENS` before this guess, or right there."""
    return any(0 <= guess - point < MIN_GAP_TOKENS for point in points)
