"""Control tokens in an answer: they are parsed, also as stop strings, but their text is not shown.

So their text goes through the parsers, with its positions, and is cut out of what they release.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.outputs.stop_strings import StopStrings
from worker.segmentation.hidden_spans import HiddenSpans, Span


class ShownContent:
    """Content without its hidden parts, up to the stop string that is completed first.

    The stop strings are found in the text that is shown; `control_stops`, those of them that
    contain a control token, also with its text.
    """

    def __init__(self, stop: Sequence[str], control_stops: Sequence[str]) -> None:
        self._stops = StopStrings(stop)
        self._control_stops = StopStrings(control_stops)
        self._hidden = HiddenSpans()
        # How much text went to the control stops and was released by them.
        self._input_chars = self._output_chars = 0

    @property
    def matched(self) -> bool:
        """Whether a stop string was found; all text after it is dropped."""
        return self._stops.matched or self._control_stops.matched

    @property
    def found(self) -> str | None:
        """The stop string that was found."""
        # The control stops release only what is before theirs.
        return self._stops.found or self._control_stops.found

    @property
    def held_chars(self) -> int:
        """How many characters that may be shown are held back."""
        held = self._control_stops.held_chars
        return self._stops.held_chars + (held and held - self._hidden_chars())

    @property
    def dropped_chars(self) -> int:
        """How many characters of the text that was shown before were a stop string or after it."""
        dropped = self._control_stops.dropped_chars
        return self._stops.dropped_chars + (dropped and dropped - self._hidden_chars())

    def push(self, text: str, hidden: Sequence[Span], *, find_stops: bool) -> str:
        """The text that `text`, with these hidden parts, releases."""
        for start, end in hidden:
            self._hidden.add(self._input_chars + start, text[start:end])
        self._input_chars += len(text)
        if not find_stops:
            return self._show(text)
        return self._stops.push(self._show(self._control_stops.push(text)))

    def flush(self) -> str:
        """Release the text held back, which may still complete a stop string."""
        released = self._stops.push(self._show(self._control_stops.flush()))
        return released + self._stops.flush()

    def _show(self, text: str) -> str:
        spans = self._hidden.within(self._output_chars, text)
        self._output_chars += len(text)
        return without(text, spans)

    def _hidden_chars(self) -> int:
        """How many characters are hidden of what the control stops hold back or drop."""
        return self._hidden.chars_after(self._output_chars)


def without(text: str, spans: Sequence[Span]) -> str:
    """The text without its hidden parts, which are in order."""
    if not spans:
        return text
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(text)]
    return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))
