"""The intake thread: reads the pipe, prepares prompts, and fills the loop's inbox.

It is the only reader, so the service is never blocked by a busy device; and it
sees the service's death at once, whatever the loop is doing.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass

from protocol.channel import Channel, Closed
from protocol.messages import (
    Cancel,
    Configure,
    Limit,
    Rejected,
    Shutdown,
    Submit,
    ToService,
    ToWorker,
)
from worker.pool import Pool
from worker.prompt import PromptError

logger = logging.getLogger(__name__)

ORPHANED_EXIT_CODE = 75
ORPHAN_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose prompt is token ids that fit the model's context."""

    submit: Submit
    prompt: list[int]
    max_tokens: int
    echo: str
    received_at: float


Work = Prepared | Rejected | Cancel | Limit | Shutdown
Inbox = queue.SimpleQueue[Work]


class Intake(threading.Thread):
    """Reads until the pipe closes; `finished` tells it that the loop has ended by itself."""

    def __init__(
        self,
        channel: Channel[ToWorker, ToService],
        pool: Pool,
        inbox: Inbox,
        finished: threading.Event,
    ) -> None:
        super().__init__(name="intake", daemon=True)
        self._channel = channel
        self._pool = pool
        self._inbox = inbox
        self._finished = finished

    def run(self) -> None:
        while True:
            try:
                message = self._channel.recv()
            except Closed as closed:
                return self._leave(closed)
            match message:
                case Submit():
                    self._inbox.put(prepare(self._pool, message))
                case Cancel() | Limit() | Shutdown():
                    self._inbox.put(message)
                case Configure():
                    logger.warning("a second Configure was ignored")

    def _leave(self, closed: Closed) -> None:
        """The service is gone: end, even if the device never returns to the loop."""
        self._inbox.put(Shutdown())
        if not self._finished.wait(ORPHAN_GRACE_S):
            logger.warning("the service is gone (%s); leaving a busy device", closed)
            os._exit(ORPHANED_EXIT_CODE)


def prepare(pool: Pool, submit: Submit) -> Prepared | Rejected:
    """The request with its prompt as token ids, or why it cannot be served."""
    received_at = time.monotonic()
    try:
        prompts = pool[submit.model].prompts
        prompt = prompts.build(submit.prompt)
        max_tokens = prompts.limit(submit, len(prompt))
        echo = prompts.echo(submit.prompt) if submit.echo else ""
    except PromptError as error:
        return Rejected(submit.id, error.code, error.message, error.param)
    except Exception:
        # One request's prompt must not end the thread that serves all of them.
        logger.exception("request %d: its prompt could not be prepared", submit.id)
        return Rejected(submit.id, "internal_error", "The prompt could not be prepared.")
    return Prepared(submit, prompt, max_tokens, echo, received_at)
