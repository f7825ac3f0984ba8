"""The receiver: the thread that reads the pipe and fills the engine core's inbox.

It is the only reader of the pipe, and it only reads: requests are prepared by other threads and
processes. So neither a busy device nor a long prompt blocks the service or delays a cancel, and
the worker notices at once when the service has ended.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from protocol.channel import Channel, Closed
from protocol.embedding import Embed
from protocol.messages import (
    Cancel,
    Command,
    Load,
    Pin,
    Ping,
    Pong,
    RenameClient,
    SetMaxRunning,
    Shutdown,
    ToService,
    ToWorker,
    Unload,
)
from protocol.tokenization import Tokenize
from worker.intake.encoded_submit import EncodedSubmit
from worker.intake.prepared import PreparationResult
from worker.intake.preprocessor import Preprocessor

logger = logging.getLogger(__name__)

ORPHANED_EXIT_CODE = 75
ORPHAN_GRACE_S = 1.0

Work = PreparationResult | Cancel | RenameClient | SetMaxRunning | Command | Shutdown
Inbox = queue.SimpleQueue[Work]


class WorkSource(Protocol):
    """What the engine core takes work from: an inbox; `get` raises `queue.Empty`."""

    def get(self, block: bool = True, timeout: float | None = None) -> Work: ...


class Receiver(threading.Thread):
    """Reads until the pipe closes; `finished` is set once the engine core has returned."""

    def __init__(
        self,
        channel: Channel[ToWorker, ToService],
        preprocessor: Preprocessor,
        inbox: Inbox,
        finished: threading.Event,
        answer_ping: Callable[[], Pong],
    ) -> None:
        super().__init__(name="receiver", daemon=True)
        self._channel = channel
        self._preprocessor = preprocessor
        self._inbox = inbox
        self._finished = finished
        self._answer_ping = answer_ping

    def run(self) -> None:
        while True:
            try:
                message = self._channel.recv()
            except Closed as closed:
                return self._leave(closed)
            match message:
                case Ping():
                    self._channel.send(self._answer_ping())
                case EncodedSubmit() | Tokenize() | Embed():
                    self._preprocessor.submit(message)
                case Cancel(ids):
                    self._preprocessor.cancel(ids)
                    self._inbox.put(message)
                case SetMaxRunning() | RenameClient() | Load() | Unload() | Pin() | Shutdown():
                    self._inbox.put(message)
                case other:
                    logger.warning("an unexpected %s was ignored", type(other).__name__)

    def _leave(self, closed: Closed) -> None:
        """End the process after the service, even if a device step never returns."""
        self._inbox.put(Shutdown())
        if not self._finished.wait(ORPHAN_GRACE_S):
            logger.warning("the service is gone (%s); exiting while the device is busy", closed)
            os._exit(ORPHANED_EXIT_CODE)
