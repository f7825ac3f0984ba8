"""Standard output and error streams that never raise, and never block the end of Python."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO, cast

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class StandardStream(io.TextIOBase):
    """An unbuffered stream. Text that cannot be written, as on a full disk, is dropped.

    A buffered stream has a lock. A blocked writer would still hold it when Python ends.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)


def open_standard_stream(descriptor: int) -> TextIO:
    """The stream of a file descriptor."""
    return cast("TextIO", StandardStream(descriptor))


def occupy_standard_streams() -> None:
    """Open /dev/null for each standard stream that this process was started without.

    Otherwise a connection would get that descriptor, and receive what libraries write to it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(STANDARD_OUTPUT, "w")
    sys.stderr = sys.stderr or os.fdopen(STANDARD_ERROR, "w")
