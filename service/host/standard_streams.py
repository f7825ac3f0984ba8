"""Standard output and error, written to without ever failing or waiting at the end."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO, cast

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class StandardStream(io.TextIOBase):
    """One of them, without a buffer, whose lock a stuck writer would hold when Python ends.

    What cannot be written, to a full disk for one, is dropped.
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
    """One of them by its number."""
    return cast("TextIO", StandardStream(descriptor))


def occupy_standard_streams() -> None:
    """Put something harmless where this process was started without a standard stream.

    A connection would else get its number, and whatever a library writes there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(STANDARD_OUTPUT, "w")
    sys.stderr = sys.stderr or os.fdopen(STANDARD_ERROR, "w")
