"""The worker's client of the grammar sandbox: starts it on first use, restarts it if it exits."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

import msgspec

from protocol.grammars import Grammar
from worker.structured_output.sandbox import RESULT_DECODER, TIME_LIMIT_S, TrialResult
from worker.structured_output.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SANDBOX_COMMAND = (sys.executable, "-P", "-m", "worker.structured_output.sandbox")
# The sandbox's own limits end a trial earlier than this timeout.
TIMEOUT_S = TIME_LIMIT_S + 1.0
# Before its first trial the sandbox loads the vocabulary.
STARTUP_TIMEOUT_S = 30.0


class SandboxClient:
    """Tries grammars for one vocabulary. Thread-safe; trials run one at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the sandbox, while it runs."""
        return None if self._process is None else self._process.pid

    def try_grammar(self, grammar: Grammar) -> TrialResult:
        """Compile the grammar in the sandbox.

        Raises:
            OSError, EOFError: the sandbox exited or timed out; the next call restarts it.
        """
        with self._lock:
            try:
                return self._request(msgspec.msgpack.encode(grammar))
            except (EOFError, OSError) as error:
                logger.warning("the grammar sandbox failed: %r", error)
                self._stop()
                raise

    def close(self) -> None:
        """Kill the sandbox, even during a trial."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _request(self, encoded: bytes) -> TrialResult:
        pipe, timeout_s = self._pipe, TIMEOUT_S
        if pipe is None:
            pipe, timeout_s = self._start(), STARTUP_TIMEOUT_S
        pipe.send_bytes(encoded)
        if not pipe.poll(timeout_s):
            raise TimeoutError(f"no result within {timeout_s} s")
        return RESULT_DECODER.decode(pipe.recv_bytes())

    def _start(self) -> Connection:
        own_end, sandbox_end = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [*SANDBOX_COMMAND, str(sandbox_end.fileno())],
            pass_fds=[sandbox_end.fileno()],
            stdin=subprocess.DEVNULL,
        )
        sandbox_end.close()
        self._pipe = own_end
        own_end.send_bytes(msgspec.msgpack.encode(self._vocabulary))
        return own_end

    def _stop(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None
