"""The events of the tokens that a step brings: made at once, or of several tokens together.

To make text is most of the work behind a quick step. Text that is held back until later steps have
brought more (`step_sender.py`) is made when it is sent, of all its tokens in one go, where it
cannot end the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from protocol.events import Event, Failed, TextDelta
from worker.engine.engine import Token
from worker.scheduler.steps.step_sender import StepSender

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """The part of a running request that makes the events of its answer."""

    @property
    def tokens(self) -> Sequence[int]: ...

    def hold(self, token: Token) -> bool:
        """Add the next token, if its text may be made later."""

    def make_held(self) -> list[Event]:
        """The events of the tokens that are held."""

    def process(self, token: Token, now: float) -> list[Event]:
        """The events of the next token, behind those of the tokens that are held."""


class OutputTexts:
    """Passes the events of the running requests' tokens to the sender.

    `end` frees the row of a request whose answer has ended, also where an error has ended it.
    """

    def __init__(
        self, running: Mapping[int, Answer], sender: StepSender, end: Callable[[int], None]
    ) -> None:
        self._running = running
        self._sender = sender
        self._end = end

    def add(self, token: Token, now: float) -> None:
        """Add a row's next token."""
        running = self._running.get(token.id)
        if running is None:
            # An earlier token of the same step has ended the answer, as by a stop string.
            return
        if running.hold(token):
            self._sender.hold(token.id, self._make_held)
            return
        events = self._make(running, token, now)
        is_last = not isinstance(events[-1], TextDelta)
        if is_last or len(running.tokens) == 1:
            self._sender.events += events
        else:
            self._sender.add_text(events)
        if is_last:
            self._end(token.id)

    def flush(self, id: int) -> bool:
        """Make the text that a running request holds; False where an error in it ends it."""
        self._sender.events += self._make_held(id)
        return id in self._running

    def _make(self, running: Answer, token: Token, now: float) -> list[Event]:
        """The events of one token; an error in one request must not end the others."""
        if token.fault is not None:
            return [Failed(token.id, f"The answer failed: {token.fault}")]
        try:
            return running.process(token, now)
        except Exception as error:
            return [fail(token.id, error)]

    def _make_held(self, id: int) -> list[Event]:
        """The events of the tokens that a request holds; none of one that has ended."""
        running = self._running.get(id)
        if running is None:
            return []
        try:
            return running.make_held()
        except Exception as error:
            self._end(id)
            return [fail(id, error)]


def fail(id: int, error: Exception) -> Failed:
    """Log the error of a request's text; the event that ends its answer."""
    logger.error("request %d failed", id, exc_info=error)
    return Failed(id, f"The answer's text could not be made: {error}")
