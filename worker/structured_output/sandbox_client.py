"""The worker's client of the grammar sandbox: starts it on first use, restarts it if it exits."""

from __future__ import annotations

import logging
import threading

import msgspec

from worker.isolation.child_process import ChildProcess
from worker.structured_output.answer_grammar import AnyGrammar
from worker.structured_output.sandbox import RESULT_DECODER, TIME_LIMIT_S, Trial, TrialResult
from worker.structured_output.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SANDBOX_MODULE = "worker.structured_output.sandbox"
# The sandbox's own limits end a trial earlier than this timeout.
TIMEOUT_S = TIME_LIMIT_S + 1.0
# Before its first trial the sandbox loads the vocabulary.
STARTUP_TIMEOUT_S = 30.0


class SandboxClient:
    """Tries grammars for one vocabulary. Thread-safe; trials run one at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the sandbox, while it runs."""
        return None if self._process is None else self._process.pid

    def try_grammar(self, grammar: AnyGrammar, cpu_limit_s: float) -> TrialResult:
        """Compile the grammar in the sandbox within `cpu_limit_s` of processor time.

        Raises:
            OSError, EOFError: the sandbox exited or timed out; the next call restarts it.
        """
        with self._lock:
            try:
                return self._request(encode_trial(grammar, cpu_limit_s))
            except (EOFError, OSError) as error:
                logger.warning("the grammar sandbox failed: %r", error)
                self._stop()
                raise

    def close(self) -> None:
        """Kill the sandbox, even during a trial."""
        if (process := self._process) is not None:
            process.kill()

    def _request(self, encoded: bytes) -> TrialResult:
        process, timeout_s = self._process, TIMEOUT_S
        if process is None:
            process = self._process = ChildProcess(SANDBOX_MODULE)
            timeout_s = STARTUP_TIMEOUT_S
            process.send(msgspec.msgpack.encode(self._vocabulary))
        process.send(encoded)
        return RESULT_DECODER.decode(process.receive(timeout_s))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def encode_trial(grammar: AnyGrammar, cpu_limit_s: float) -> bytes:
    """The message that asks the sandbox to try this grammar."""
    encoded = msgspec.Raw(msgspec.msgpack.encode(grammar))
    return msgspec.msgpack.encode(Trial(encoded, cpu_limit_s))
