"""A real service, started as a user starts it, on a free port of the loopback address."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import plain_http
from tests.waiting import HANG_S, wait_for

# Below those that systems give to clients (32,768 and up on Linux, 49,152 on macOS).
PORTS = range(10_000, 32_000)
# On the busiest machine two minutes, the default, pass while a large text is tokenized.
PATIENT = ("--queue-timeout-s", "900")


class Daemon:
    """`mlxd serve` as a process of its own; `program` runs it, with another worker perhaps.

    With `port` it takes the place of one that has ended.
    """

    def __init__(
        self,
        flags: Sequence[str],
        environ: Mapping[str, str],
        program: str = "service",
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.lines: list[str] = []
        self._serving = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, "serve", "--port", str(self.port), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", **environ},
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return "".join(self.lines)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def wait_serving(self) -> None:
        """Wait for its start screen."""
        self._serving.wait(HANG_S)
        assert f"{self.url}/v1" in self.output, f"it did not start:\n{self.output}"

    def health(self) -> dict[str, Any]:
        """What `/health` says now."""
        # Reading certificates, which nothing here needs, would take longer than the request.
        report: dict[str, Any] = plain_http.get(f"{self.url}/health").json()
        return report

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so."""
        wait_for(condition, lambda: self.output)

    def wait_line(self, part: str) -> None:
        """Wait until it has printed this."""
        self.wait_for(lambda: part in self.output)

    def descriptors(self) -> list[str]:
        """What each of its descriptors is, `socket:[1]` for one; from /proc."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        found = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(path))  # noqa: PTH115 (they are no paths)
        return found

    def wait_until(self, part: str, *, be: Any) -> dict[str, Any]:
        """Ask for the health until this part of it (dotted) has that value."""
        report: dict[str, Any] = {}

        def has_come() -> bool:
            nonlocal report
            with contextlib.suppress(httpx.TransportError):
                report = self.health()
                return bool(value_at(report, part) == be)
            assert self.process.poll() is None, f"it has ended:\n{self.output}"
            return False

        wait_for(has_come, lambda: f"{part} is not {be!r}: {report}\n{self.output}")
        return report

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        status = self.process.wait(HANG_S)
        self._reader.join(HANG_S)
        return status

    def stop(self) -> None:
        """End it, if it has not ended."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            self.wait()
        finally:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)
                if line.startswith("curl"):
                    self._serving.set()
        self._serving.set()


@contextmanager
def running(
    *models: Path | str,
    flags: Sequence[str] = (),
    wait: bool = True,
    environ: Mapping[str, str] | None = None,
    program: str = "service",
) -> Iterator[Daemon]:
    """A service for these models, by default once it serves; ended when the block is."""
    chosen = [word for model in models for word in ("--model", str(model))]
    daemon = Daemon([*chosen, *flags], environ or {}, program)
    try:
        if wait:
            daemon.wait_serving()
        yield daemon
    finally:
        daemon.stop()


def free_port(ports: range = PORTS) -> int:
    """A port of the loopback address that nobody listens on, and that no client is given."""
    while True:
        port = random.SystemRandom().choice(ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def value_at(report: dict[str, Any], part: str) -> Any:
    """The value under a dotted name."""
    value: Any = report
    for name in part.split("."):
        value = value[name]
    return value
