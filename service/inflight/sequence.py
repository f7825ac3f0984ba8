"""One sequence in flight, with all that a new worker needs to go on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from protocol.messages import Submit
from service.inflight.output_collector import OutputCollector


class InflightSequence:
    """`submit.id` is its id here; `attempt_id` is the worker's.

    The latter changes when the sequence is taken back, so that what is still said of
    the earlier one is dropped. Its events go to `collector`, which is its request's.
    """

    __slots__ = (
        "_deadline",
        "attempt_id",
        "collector",
        "id",
        "scored",
        "started",
        "submit",
        "tokens",
    )

    def __init__(self, submit: Submit, collector: OutputCollector) -> None:
        self.id = self.attempt_id = submit.id
        self.submit = submit
        self.collector = collector
        self.tokens: list[int] = []
        self.started = False
        self.scored = False
        self._deadline: asyncio.TimerHandle | None = None

    def wait(self, timeout_s: float, expire: Callable[[], None]) -> None:
        """It waits for the device: `expire` when that is too long. Since when stays as it was.

        An answer that has begun waits for as long as it takes: a crash is a pause.
        """
        if self._deadline is None and not self.started:
            self._deadline = asyncio.get_running_loop().call_later(timeout_s, expire)

    def stop_waiting(self) -> None:
        """The device has it, or nobody wants it any more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def resumed(self) -> Submit:
        """The request as the worker gets it next."""
        return msgspec.structs.replace(self.submit, id=self.attempt_id, resume=self.tokens)
