"""The process of one rank beside rank 0: the rank itself, or ssh to its host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import excerpt
from service.ranks.attendance import LossCause

# How long a rank may take to end once rank 0 has ended, which it notices at once.
END_TIMEOUT_S = 2.0
# A process group of its own: if this process ends while a rank is stopped, POSIX has the system
# continue the rank, which then notices. A rank that has begun asks Linux to be killed besides.
OWN_GROUP = 0
LAST_WORDS_CHARS = 500


class ErrorCopy(Protocol):
    """Copies a process's standard error to this one's."""

    def finish(self) -> str:
        """Copy the rest, once the process has exited; the end of its text."""


CopyErrors = Callable[[int], ErrorCopy]
"""Starts a copy from a descriptor, which it then owns."""


@dataclass(frozen=True, slots=True)
class RankProgram:
    """How a rank is started: its command, and what it first reads.

    `name` is what messages call it. `explain` gives the meaning of an exit code, by the end of
    its standard error; with that end a message says what ssh has said.
    """

    name: str
    command: Sequence[str]
    first_lines: bytes
    explain: Callable[[int, str], str] | None = None


class Follower:
    """One rank. Its standard input has the secret, and stays open for as long as it may run."""

    def __init__(
        self,
        program: RankProgram,
        environ: Mapping[str, str],
        on_exit: Callable[[], None],
        copy_errors: CopyErrors,
    ) -> None:
        self._program = program
        self._process = subprocess.Popen(
            program.command,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=OWN_GROUP,
        )
        assert self._process.stderr is not None
        assert self._process.stdin is not None
        self._standard_error = copy_errors(os.dup(self._process.stderr.fileno()))
        self._process.stderr.close()
        self._input = self._process.stdin
        # It may have ended already, of which `on_exit` tells.
        with contextlib.suppress(BrokenPipeError):
            self._input.write(program.first_lines)
        self._on_exit = on_exit
        self._is_killed = False
        self._exited = threading.Event()
        threading.Thread(target=self._wait, name=f"{program.name}-reaper", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def loss_cause(self) -> LossCause | None:
        """How it has failed by itself, if it has; known once it has exited."""
        status = self._process.returncode
        if status in (0, None) or self._is_killed:
            return None
        return "killed" if status < 0 else "failed"

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self._exited.is_set():
            self._is_killed = True
            self._process.kill()

    def finish(self, timeout_s: float = END_TIMEOUT_S) -> str | None:
        """Wait for its exit, and kill it if it does not end; how it has failed, if it has.

        Where rank 0 ends first, another rank ends by itself with exit code 0.
        """
        self._input.close()
        if not self._exited.wait(timeout_s):
            self.kill()
            self._exited.wait()
        last_words = self._standard_error.finish()
        status = self._process.returncode
        if status == 0 or self._is_killed:
            return None
        return self._describe(status, last_words)

    def _describe(self, status: int, last_words: str) -> str:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        text = f"{self._program.name} has ended with {how}"
        if self._program.explain is None:
            return text
        meaning = self._program.explain(status, last_words)
        said = excerpt(last_words[-LAST_WORDS_CHARS:], LAST_WORDS_CHARS) if last_words else ""
        return ": ".join(filter(None, (text, meaning, said)))

    def _wait(self) -> None:
        self._process.wait()
        self._exited.set()
        self._on_exit()
