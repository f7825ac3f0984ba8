"""One sequence's text: tokens in, released text out, ended by a stop string.

Stop strings are matched on text, not on token ids, which would miss the same
text tokenised another way. Text that could still become a stop string is held
back, so no part of one is ever released.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.detokenizer import Detokenizer


class StopStrings:
    """Finds the first stop string to be completed, however the text is cut into pieces."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.matched = False

    def push(self, piece: str) -> str:
        """The text that `piece` releases. Once `matched`, everything after is dropped."""
        if not self._stop:
            return piece
        if self.matched:
            return ""
        window = self._held + piece
        if (match_start := self._find(window)) is not None:
            self.matched = True
            self._held = ""
            return window[:match_start]
        keep = self._possible_start(window)
        self._held = window[keep:]
        return window[:keep]

    def flush(self) -> str:
        """The text held back, which became no stop string."""
        held, self._held = self._held, ""
        return held

    def _find(self, window: str) -> int | None:
        """Where the stop string that ends first begins; of two that end together, the longer."""
        found = ((window.find(stop), len(stop)) for stop in self._stop)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _possible_start(self, window: str) -> int:
        """Where the longest tail of `window` begins that begins a stop string."""
        longest = max(len(stop) for stop in self._stop) - 1
        for start in range(max(0, len(window) - longest), len(window)):
            if any(stop.startswith(window[start:]) for stop in self._stop):
                return start
        return len(window)


class Text:
    """Tokens to released text for one sequence."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the sequence."""
        return self._stops.matched

    def push(self, token: int) -> str:
        """The text that `token` releases, which may be none."""
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The rest, when no more tokens come. It may still complete a stop string."""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()
