"""One sequence's text: tokens in, content, reasoning and tool calls out, ended by a stop string.

Stop strings are matched on text, not on token ids, which would miss the same
text tokenised another way. Text that could still become a stop string is held
back, so no part of one is ever released. They apply to content alone: neither
reasoning nor a call's arguments are what a client means to cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from worker.outputs.detokenizer import Detokenizer
from worker.outputs.segmenter import Segmenter, possible_start
from worker.tool_calls.deltas import ContentDelta, OutputDelta, ToolCallStart


class StopStrings:
    """Finds the first stop string to be completed, however the text is cut into deltas."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.matched = False
        self.dropped = 0

    def push(self, delta: str) -> str:
        """The text that `delta` releases. Once `matched`, everything after is dropped."""
        if not self._stop:
            return delta
        if self.matched:
            return ""
        window = self._held + delta
        if (match_start := self._find(window)) is not None:
            self.matched = True
            self._held = ""
            self.dropped = len(window) - match_start
            return window[:match_start]
        keep = possible_start(window, self._stop)
        self._held = window[keep:]
        return window[:keep]

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return len(self._held)

    def flush(self) -> str:
        """The text held back, which became no stop string."""
        held, self._held = self._held, ""
        return held

    def _find(self, window: str) -> int | None:
        """Where the stop string that ends first begins; of two that end together, the longer."""
        found = ((window.find(stop), len(stop)) for stop in self._stop)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None


class Text:
    """Tokens to what they say, for one sequence; its first `min_tokens` end it by no stop string.

    Where calls may come, white space beside them belongs to their syntax: it is held
    back until something else follows.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stop: Sequence[str],
        segmenter: Segmenter,
        *,
        min_tokens: int = 0,
        trim: bool = False,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stop)
        self._unsearched = min_tokens
        # Where each token's text ends, in characters, and how many of those are decided.
        self._ends: list[int] = []
        self.decoded = 0
        self._dropped = 0
        self._settled = 0
        self._segmenter = segmenter
        self._trim = trim
        # Neither cut nor held back here: what the segmenter says is what is said.
        self._untouched = not (stop or trim)
        self._space = ""
        self._after_call = False
        self._called = False
        self._ahead: deque[tuple[int, list[OutputDelta]]] = deque()
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether the text itself ended the sequence: by a stop string, or by its only call."""
        return self._stops.matched or self._segmenter.ended

    @property
    def called(self) -> bool:
        """Whether there are calls, all of them whole."""
        return self._called and not self._segmenter.broken

    @property
    def in_arguments(self) -> bool:
        """Whether the last token was amid the arguments of a call, in JSON."""
        return self._segmenter.in_arguments

    def push_ahead(self, token: int) -> list[OutputDelta]:
        """What `token` releases, for a constraint that looks at it before `read` gets it."""
        start = self.decoded
        deltas = self.push(token)
        self._ahead.append((start, deltas))
        return deltas

    def read(self, token: int) -> tuple[int, list[OutputDelta]]:
        """Where the text of `token` starts, in characters, and what it releases.

        A token that was pushed ahead is not parsed again.
        """
        if self._ahead:
            return self._ahead.popleft()
        start = self.decoded
        return start, self.push(token)

    def push(self, token: int) -> list[OutputDelta]:
        """What `token` releases, which may be nothing."""
        reasoning = self._segmenter.reasoning
        text = self._detokenizer.push(token)
        self.decoded += len(text)
        self._ends.append(self.decoded)
        deltas = self._release(self._segmenter.push(text))
        if self._unsearched:
            self._unsearched -= 1
        if reasoning or self._segmenter.reasoning:
            self.reasoning_tokens += 1
        return deltas

    def settled(self) -> int:
        """How many of the first tokens have all their text released, or read as a marker."""
        held = self._segmenter.held + len(self._space) + self._stops.held + self._dropped
        while self._settled < len(self._ends) and self._ends[self._settled] <= self.decoded - held:
            self._settled += 1
        return self._settled

    def finish(self, *, cut: bool) -> list[OutputDelta]:
        """The rest, when no more tokens come; `cut`: for want of them.

        It may still complete a stop string.
        """
        self._unsearched = 0
        rest = self._segmenter.push(self._detokenizer.flush())
        rest += self._segmenter.finish(cut=cut)
        deltas = self._release(rest)
        self._say(self._stops.flush(), deltas)
        if self._space and not self._after_call:
            deltas.append(ContentDelta(self._space))
        self._space = ""
        return deltas

    def _release(self, deltas: list[OutputDelta]) -> list[OutputDelta]:
        if self._untouched:
            return deltas
        released: list[OutputDelta] = []
        for delta in deltas:
            if self._stops.matched:
                self._dropped += len(delta.text) if isinstance(delta, ContentDelta) else 0
                continue
            match delta:
                case ContentDelta(text, "content"):
                    self._say(text if self._unsearched else self._stops.push(text), released)
                    self._dropped += self._stops.dropped
                case ToolCallStart():
                    self._say(self._stops.flush(), released)
                    self._space = ""
                    self._called = self._after_call = True
                    released.append(delta)
                case _:
                    released.append(delta)
        return released

    def _say(self, text: str, released: list[OutputDelta]) -> None:
        if self._trim:
            text = self._space + text
            end = len(text) if self._stops.matched else len(text.rstrip())
            text, self._space = text[:end], text[end:]
        if text:
            released.append(ContentDelta(text))
            self._after_call = False
