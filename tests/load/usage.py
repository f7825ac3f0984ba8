"""Processor time and memory that the processes of a local server use."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Self

import psutil

SERVER = "server"
WORKER = "workers"
PER_TOKENS = 1000


@dataclass(frozen=True)
class Usage:
    """Processor seconds, and the most bytes seen resident, of the server and of its children."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def per_1000_tokens(self, tokens: int) -> Self:
        """Processor seconds for 1,000 tokens."""
        share = PER_TOKENS / max(1, tokens)
        return replace(self, cpu_s={name: s * share for name, s in self.cpu_s.items()})


class Meter:
    """Samples the processes of the server `pid`."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._cpu_s: dict[str, float] = {}
        self._peak_bytes: dict[str, int] = {}

    def begin(self) -> None:
        """Start counting."""
        self._cpu_s = self._read_cpu()
        self._peak_bytes = {}
        self.look()

    def look(self) -> None:
        """Sample the memory that is resident now."""
        for name, processes in self._processes().items():
            held = sum(process.memory_info().rss for process in processes)
            self._peak_bytes[name] = max(self._peak_bytes.get(name, 0), held)

    def end(self) -> Usage:
        """The usage since `begin`."""
        self.look()
        used = {name: s - self._cpu_s.get(name, 0.0) for name, s in self._read_cpu().items()}
        return Usage(used, self._peak_bytes)

    def _read_cpu(self) -> dict[str, float]:
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in self._processes().items()
        }

    def _processes(self) -> dict[str, list[psutil.Process]]:
        children = self._server.children(recursive=True)
        found = {SERVER: [self._server]}
        return {**found, WORKER: children} if children else found


def listener_of(url: str) -> int | None:
    """The local process that serves `url`; None where it cannot be found."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        return None
    with contextlib.suppress(psutil.AccessDenied, ValueError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and listens.port == int(port):
                pid: int | None = connection.pid
                return pid
    return None
