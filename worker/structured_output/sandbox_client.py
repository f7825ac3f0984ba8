"""The checking process from the worker's side: begun when first needed, and again if it died."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

import msgspec

from protocol.grammars import Grammar
from worker.structured_output.sandbox import TIME_LIMIT_S, TRIAL_RESULTS, TrialResult
from worker.structured_output.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

CHECK_COMMAND = (sys.executable, "-P", "-m", "worker.structured_output.sandbox")
# Its own limits end a check before this; reading a large vocabulary comes before the first.
PATIENCE_S = TIME_LIMIT_S + 1.0
START_PATIENCE_S = 30.0


class SandboxClient:
    """Tries the grammars of one vocabulary. Callers on several threads take turns."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The process, once there is one."""
        return None if self._process is None else self._process.pid

    def check(self, grammar: Grammar) -> TrialResult:
        """Whether the worker may compile this grammar.

        Raises:
            OSError, EOFError: the process was lost; the next check begins another.
        """
        with self._lock:
            try:
                return self._ask(msgspec.msgpack.encode(grammar))
            except (EOFError, OSError) as error:
                logger.warning("the process that checks grammars was lost: %r", error)
                self._end()
                raise

    def close(self) -> None:
        """End the process at once, even in the middle of a check."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _ask(self, asked: bytes) -> TrialResult:
        pipe, patience_s = self._pipe, PATIENCE_S
        if pipe is None:
            pipe, patience_s = self._start(), START_PATIENCE_S
        pipe.send_bytes(asked)
        if not pipe.poll(patience_s):
            raise TimeoutError(f"no verdict within {patience_s} s")
        return TRIAL_RESULTS.decode(pipe.recv_bytes())

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [*CHECK_COMMAND, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        ours.send_bytes(msgspec.msgpack.encode(self._vocabulary))
        return ours

    def _end(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None
