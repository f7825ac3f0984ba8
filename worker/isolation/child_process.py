"""The worker's end of a child process that answers one request at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence


class ChildProcess:
    """A running `python -m MODULE FD`; `FD` is its end of a pipe. One thread at a time uses it.

    Only `kill` may be called from any thread: a request in progress then raises.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        own_end, child_end = multiprocessing.Pipe()
        # The child's end is closed here; otherwise the pipe would never reach end of file.
        with child_end:
            try:
                self._process = subprocess.Popen(
                    command_of(module, str(child_end.fileno()), *arguments),
                    pass_fds=[child_end.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError:
                own_end.close()
                raise
        self._pipe = own_end

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, body: bytes) -> None:
        """Write one message; it blocks while the child does not read.

        Raises:
            OSError: the child has exited.
        """
        self._pipe.send_bytes(body)

    def poll(self, timeout_s: float) -> bool:
        """Whether a message or the end of the pipe arrives within `timeout_s`."""
        return self._pipe.poll(timeout_s)

    def receive(self, timeout_s: float) -> bytes:
        """The next message.

        Raises:
            EOFError, OSError: the child has exited, or nothing arrived within `timeout_s`.
        """
        if not self.poll(timeout_s):
            raise TimeoutError(f"no result within {timeout_s} s")
        return self._pipe.recv_bytes()

    def kill(self) -> None:
        """End the process, even during a request, and wait for it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close the pipe."""
        self.kill()
        with contextlib.suppress(OSError):
            self._pipe.close()


def command_of(module: str, *arguments: str) -> Sequence[str]:
    """The command that runs a module of this package.

    -P: do not import a folder named `worker` from the current directory.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
