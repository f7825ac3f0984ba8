"""The servers that the trace is sent to; those that are started here can be ended, too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from tests.e2e.daemon import Daemon, running
from tests.load.servers import Server, mlx_lm_server

MAX_RUNNING = 16


class Target(Protocol):
    """A server."""

    @property
    def url(self) -> str:
        """Its base URL, which a restart may change."""

    def kill_worker(self) -> bool:
        """Kill what computes, and wait for a new one; whether that was possible."""

    def restart(self) -> bool:
        """Stop it and start it again; whether that was possible."""


@dataclass(frozen=True)
class Remote:
    """A server that somebody else has started."""

    url: str

    def kill_worker(self) -> bool:
        return False

    def restart(self) -> bool:
        return False


class Mlxd:
    """mlxd, with a folder for its prompt cache."""

    def __init__(self, model: Path, cache_folder: Path | None, flags: Sequence[str]) -> None:
        self._model = f"default_model={model}"
        self._flags = ["--max-running", str(MAX_RUNNING), "--log-level", "warning", *flags]
        if cache_folder is not None:
            self._flags += ["--prompt-cache-dir", str(cache_folder)]
        self._stack = ExitStack()
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return self._running.url

    def kill_worker(self) -> bool:
        daemon = self._running
        restarts = daemon.health()["worker"]["restarts"]
        os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
        daemon.wait_until("worker.restarts", be=restarts + 1)
        daemon.wait_until("status", be="healthy")
        return True

    def restart(self) -> bool:
        self._stack.close()
        self._start()
        return True

    @property
    def _running(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    def _start(self) -> None:
        self._daemon = self._stack.enter_context(running(self._model, flags=self._flags))
        self._daemon.wait_until("status", be="healthy")


class Peer:
    """mlx_lm.server. It has no worker: where mlxd's is killed, it is started again."""

    def __init__(self, model: Path, flags: Sequence[str]) -> None:
        self._start: Callable[[], AbstractContextManager[Server]] = lambda: mlx_lm_server(
            model, MAX_RUNNING, flags
        )
        self._stack = ExitStack()
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self._server = self._stack.enter_context(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    def kill_worker(self) -> bool:
        return self.restart()

    def restart(self) -> bool:
        self._stack.close()
        self._server = self._stack.enter_context(self._start())
        return True
