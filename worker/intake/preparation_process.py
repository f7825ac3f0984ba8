"""The worker's client of one preparation process: starts, watches, and ends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from protocol.events import Rejected
from protocol.units import format_bytes
from worker.intake.preparation_child import ANSWER_DECODER, READY, Answer, ChildRequest
from worker.isolation.child_process import ChildProcess
from worker.memory.footprint import read_footprint_of
from worker.memory.preparation import PreparationMemory

logger = logging.getLogger(__name__)

CHILD_MODULE = "worker.intake.preparation_child"
POLL_S = 0.02
# Reserved before a prompt is sent: for the process, and for each byte of the prompt until its
# length is checked. Its tokenization takes up to 130 times its size, reserved as it is used.
BASE_BYTES = 128 * 1024 * 1024
BYTES_PER_BYTE = 16
MAX_BYTES = 1024 * 1024 * 1024
# A process that keeps more than this after a prompt is ended. Vocabularies are large, too.
MAX_IDLE_BYTES = 768 * 1024 * 1024
# The service cancels earlier, at its `queue_timeout_s`; the start of the process counts, too.
TIME_LIMIT_S = 600.0
# A cancelled prompt gets this long to be finished: a new process needs as long to start.
CANCEL_GRACE_S = 1.0
# One more attempt if the process ends for no known reason, as when the system kills it.
ATTEMPTS = 2


class PreparationRefused(Exception):
    """A prompt takes too long or too much memory; the arguments are an error code and a text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PreparationProcess:
    """Prepares one prompt at a time; one thread uses it. `name` owns its memory reservation."""

    def __init__(self, name: str, memory: PreparationMemory, *, memory_wait_s: float) -> None:
        self._name = name
        self._memory = memory
        self._memory_wait_s = memory_wait_s
        self._process: ChildProcess | None = None
        self._is_ready = False
        self._peak_bytes = 0

    @property
    def pid(self) -> int | None:
        """The process id, while a process runs."""
        return None if self._process is None else self._process.pid

    def prepare(self, request: ChildRequest, is_wanted: Callable[[], bool]) -> Answer | None:
        """The prepared prompt or its rejection; None if it is no longer wanted."""
        submit = request.submit
        try:
            if not self._reserve(BASE_BYTES + submit.nbytes * BYTES_PER_BYTE, is_wanted):
                return None
            for _ in range(ATTEMPTS):
                try:
                    return self._request(msgspec.msgpack.encode(request), is_wanted)
                except (EOFError, OSError) as error:
                    logger.warning("the preparation process failed: %r", error)
                    exceeded = self._peak_bytes > MAX_BYTES // 2
                    self.stop()
                    if exceeded:
                        raise too_large() from error
            return Rejected(submit.id, "internal_error", "The prompt could not be prepared.")
        except PreparationRefused as refused:
            self.stop()
            logger.warning("request %d: %s", submit.id, refused)
            return Rejected(submit.id, refused.code, str(refused), submit.param)
        finally:
            self._settle()

    def stop(self) -> None:
        """End the process, if one runs, and release its memory."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._is_ready = False
        self._peak_bytes = 0
        self._memory.reserve(self._name, 0)

    def _request(self, encoded: bytes, is_wanted: Callable[[], bool]) -> Answer | None:
        process = self._process
        if process is None:
            process = self._process = ChildProcess(CHILD_MODULE, str(MAX_BYTES))
        if not self._is_ready:
            if not self._wait(process, is_wanted):
                return None
            self._is_ready = process.receive(0) == READY
        process.send(encoded)
        if not self._wait(process, is_wanted):
            self.stop()
            return None
        return ANSWER_DECODER.decode(process.receive(0))

    def _wait(self, process: ChildProcess, is_wanted: Callable[[], bool]) -> bool:
        """Wait for the next message; False if the prompt was cancelled for too long.

        Raises:
            PreparationRefused: a limit of time or memory is exceeded.
        """
        ends_at = time.monotonic() + TIME_LIMIT_S
        cancelled_at: float | None = None
        while not process.poll(POLL_S):
            now = time.monotonic()
            self._check_memory(process)
            if now > ends_at:
                message = f"The prompt takes longer than {TIME_LIMIT_S:g} s to prepare."
                raise PreparationRefused("prompt_too_large", message)
            if is_wanted():
                cancelled_at = None
            elif cancelled_at is None:
                cancelled_at = now
            elif now > cancelled_at + CANCEL_GRACE_S:
                return False
        return True

    def _check_memory(self, process: ChildProcess) -> None:
        self._peak_bytes = max(self._peak_bytes, read_footprint_of(process.pid))
        if self._peak_bytes > MAX_BYTES:
            raise too_large()
        if not self._memory.reserve_at_least(self._name, self._peak_bytes):
            message = "There is not enough memory to prepare this prompt now."
            raise PreparationRefused("insufficient_memory", message)

    def _reserve(self, nbytes: int, is_wanted: Callable[[], bool]) -> bool:
        """Wait until the memory is available; False if the prompt is no longer wanted.

        Raises:
            PreparationRefused: it was not available for too long.
        """
        needed_bytes = min(nbytes, MAX_BYTES)
        ends_at = time.monotonic() + self._memory_wait_s
        while is_wanted():
            if self._memory.reserve(self._name, needed_bytes):
                return True
            if time.monotonic() > ends_at:
                needed = format_bytes(needed_bytes)
                message = f"There is not enough memory to prepare this prompt, about {needed}."
                raise PreparationRefused("insufficient_memory", message)
            time.sleep(POLL_S)
        return False

    def _settle(self) -> None:
        """Keep what an idle process uses reserved; end one that uses too much."""
        if self._process is None:
            self._memory.reserve(self._name, 0)
            return
        used_bytes = read_footprint_of(self._process.pid)
        if used_bytes > MAX_IDLE_BYTES:
            self.stop()
        else:
            self._peak_bytes = 0
            self._memory.reserve(self._name, used_bytes)


def too_large() -> PreparationRefused:
    """The refusal of a prompt that exceeds `MAX_BYTES`, also of one that ended the process."""
    message = f"The prompt needs more than {format_bytes(MAX_BYTES)} of memory to be prepared."
    return PreparationRefused("prompt_too_large", message)
