"""Copies a worker's standard error to this process's own, and keeps the end of it.

A process that a library aborts cannot send a message: what it wrote last is all that it says.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

KEPT_BYTES = 4096
READ_BYTES = 65536
# What is still read once the worker has exited: more than a pipe holds. Child processes of the
# worker may have its standard error open, and write on.
MAX_REST_BYTES = 1024 * 1024
STANDARD_ERROR = 2
# How long the worker's text waits for a terminal or a pipe that nobody reads, before it is
# dropped. The worker's own writes wait no longer than that.
BLOCKED_S = 1.0
# What the rest takes at most, on a busy machine too, is less.
FINISH_TIMEOUT_S = 10.0


class StandardErrorCopy:
    """A thread that reads `source`, a pipe that it closes at the end, and writes to `target`."""

    def __init__(self, source: int, target: int = STANDARD_ERROR) -> None:
        self._source, self._target = source, target
        os.set_blocking(source, False)
        self._end_read, self._end_write = os.pipe()
        self._kept = b""
        self._dropped_bytes = 0
        self._thread = threading.Thread(target=self._run, name="worker-stderr", daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """Copy what the worker, which has exited, has still written; the last of its text."""
        os.close(self._end_write)
        self._thread.join(FINISH_TIMEOUT_S)
        return self._kept.decode(errors="replace").strip()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._source, select.POLLIN)
        poller.register(self._end_read, select.POLLIN)
        is_open = True
        while is_open:
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._end_read in ready:
                break
            is_open = self._copy_once() != 0
        self._copy_rest()
        with contextlib.suppress(OSError, ValueError):
            self._note_dropped_bytes(BLOCKED_S)
        os.close(self._source)
        os.close(self._end_read)

    def _copy_rest(self) -> None:
        rest = MAX_REST_BYTES
        while rest > 0 and (copied := self._copy_once()):
            rest -= copied

    def _copy_once(self) -> int:
        """Copy what can be read at once; the number of its bytes, 0 at the end of the file."""
        try:
            text = os.read(self._source, READ_BYTES)
        except OSError:
            return 0
        self._kept = (self._kept + text)[-KEPT_BYTES:]
        # The target may be closed, or its disk full.
        with contextlib.suppress(OSError, ValueError):
            self._write(text)
        return len(text)

    def _write(self, text: bytes) -> None:
        """Write to the target as long as it takes text."""
        for start in range(0, len(text), select.PIPE_BUF):
            # While text is dropped, the target is not waited for.
            self._note_dropped_bytes(timeout_s=0)
            if self._dropped_bytes or not self._takes_text(BLOCKED_S):
                self._dropped_bytes += len(text) - start
                return
            os.write(self._target, text[start : start + select.PIPE_BUF])

    def _note_dropped_bytes(self, timeout_s: float) -> None:
        """Write how much was dropped, if the target takes text within the time-out."""
        if self._dropped_bytes and self._takes_text(timeout_s):
            dropped, self._dropped_bytes = self._dropped_bytes, 0
            notice = f"\n({dropped} bytes of the worker's standard error were dropped)\n"
            os.write(self._target, notice.encode())

    def _takes_text(self, timeout_s: float) -> bool:
        """Whether a write of at most `PIPE_BUF` bytes will not block."""
        return bool(select.select([], [self._target], [], timeout_s)[1])
