"""Runs the device's part of the selftest: `python -m worker.selftest`, a program of its own.

A section in which the program dies or falls silent has failed; the sections after it run in a new
one, since Metal may abort the process without a word.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from protocol.selftest import (
    FAILURE,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
)

SELFTEST_COMMAND = (sys.executable, "-P", "-m", "worker.selftest")
# A model may be read from a slow disk for that long.
SILENCE_S = 180.0
READ_BYTES = 1 << 16
MESSAGES: msgspec.json.Decoder[SelftestMessage] = msgspec.json.Decoder(SelftestMessage)


def run_device(
    request: SelftestRequest,
    environ: Mapping[str, str],
    *,
    command: Sequence[str] = SELFTEST_COMMAND,
    silence_s: float = SILENCE_S,
) -> Iterator[SelftestMessage]:
    """What the sections report; each of them starts and ends, whatever happens to the program.

    `environ` is the worker's environment.
    """
    left = dict(request.budgets_s)
    while left:
        running: str | None = None
        started_at = time.monotonic()
        program = DeviceProgram(msgspec.structs.replace(request, budgets_s=left), environ, command)
        with contextlib.closing(program):
            for message in program.messages(silence_s):
                match message:
                    case SectionStarted(section):
                        running, started_at = section, time.monotonic()
                    case SectionEnded(section):
                        running = None
                        left.pop(section, None)
                yield message
        if not left:
            return
        section = running or next(iter(left))
        if running is None:
            yield SectionStarted(section, left[section])
        yield Figure(section=section, name=FAILURE, verdict="failed", note=program.end)
        yield SectionEnded(section, time.monotonic() - started_at)
        del left[section]


class DeviceProgram:
    """One process. `end` says how it ended, once there are no more messages."""

    def __init__(
        self, request: SelftestRequest, environ: Mapping[str, str], command: Sequence[str]
    ) -> None:
        self.end = ""
        self._output, output = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(output)],
                env=dict(environ),
                pass_fds=[output],
                stdin=subprocess.PIPE,
                # Libraries may print.
                stdout=subprocess.DEVNULL,
            )
        finally:
            os.close(output)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(msgspec.json.encode(request))

    def messages(self, silence_s: float) -> Iterator[SelftestMessage]:
        """The messages until the program ends, or says nothing for `silence_s`."""
        text = b""
        while select.select([self._output], [], [], silence_s)[0]:
            read = os.read(self._output, READ_BYTES)
            if not read:
                status = self._process.wait()
                self.end = describe_status(status)
                return
            *lines, text = (text + read).split(b"\n")
            yield from map(MESSAGES.decode, lines)
        self.end = f"the program said nothing for {silence_s:g} seconds"

    def close(self) -> None:
        """End the process, and wait for it."""
        self._process.kill()
        self._process.wait()
        os.close(self._output)


def describe_status(status: int) -> str:
    """How a process ended."""
    if status < 0:
        return f"the program was ended by signal {-status}"
    return f"the program ended with exit code {status}"
