"""Where a stream of text has parts that are parsed, but not shown: the control tokens."""

from __future__ import annotations

from collections import deque

# Where a hidden part starts and ends in a text.
Span = tuple[int, int]


class HiddenSpans:
    """The hidden parts of one stream of text, by their positions in it, in characters."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, str]] = deque()

    def add(self, start: int, hidden: str) -> None:
        """The stream has a hidden part at `start`, after all that were added before."""
        self._spans.append((start, hidden))

    def within(self, start: int, text: str) -> tuple[Span, ...]:
        """The hidden parts of `text`, which is at `start`; those before it are forgotten."""
        while self._spans and self._spans[0][0] + len(self._spans[0][1]) <= start:
            self._spans.popleft()
        found = []
        for begin, hidden in self._spans:
            first, end = max(begin, start), min(begin + len(hidden), start + len(text))
            if first >= end:
                break
            # A parser may have changed the text; then its positions prove nothing.
            if text[first - start : end - start] == hidden[first - begin : end - begin]:
                found.append((first - start, end - start))
        return tuple(found)

    def chars_after(self, start: int) -> int:
        """How many characters from `start` on are hidden."""
        return sum(max(0, begin + len(hidden) - max(begin, start)) for begin, hidden in self._spans)
