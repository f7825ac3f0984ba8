"""One worker process: started, spoken to, and seen off.

The worker is a program of its own (`python -m worker`), so nothing of this
process is imported into it, its environment is set before it starts, and the
pipe's end is the only thing that both hold: its end of file is the death of
the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from protocol.channel import Channel, Closed, service_end
from protocol.messages import ToService, ToWorker
from service.config.api_keys import API_KEYS_VARIABLE
from service.supervision.preloads import Preloads

# The descriptor of the pipe's other end follows as the last word. -P: a folder named
# `worker` where the service was started is not ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "worker")
CODE_FOLDER = str(Path(__file__).parents[2])
REAP_TIMEOUT_S = 2.0

Receive = Callable[[ToService], None]
Lost = Callable[[int], None]


class WorkerProcess:
    """A running worker. What it says, and its end, are told on the event loop it is made on.

    `on_closed` is called as soon as nothing more can come from it, `on_exit` with
    its exit status once it is gone.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        on_message: Receive,
        on_exit: Lost,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        ours, theirs = multiprocessing.Pipe()
        # Held here as well, the worker's end would never reach end of file.
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                env=dict(environ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._channel: Channel[ToService, ToWorker] = service_end(ours)
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._read)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Queue a message. After the worker's death it goes nowhere."""
        self._channel.send(message)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it (SIGKILL)."""
        self._process.kill()

    def _read(self) -> None:
        try:
            for message in self._channel.take():
                self._on_message(message)
        except Closed:
            self._loop.remove_reader(self._channel.fileno())
            if self._on_closed is not None:
                self._on_closed()
            threading.Thread(target=self._reap, name="worker-reaper", daemon=True).start()

    def _reap(self) -> None:
        """Tell its exit status, negative for a signal. One that outlives its pipe is killed."""
        try:
            status = self._process.wait(REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._channel.close()
        # A loop that has closed needs no news.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_exit, status)


def worker_environ(environ: Mapping[str, str], preloads: Preloads) -> dict[str, str]:
    """The worker's environment: ours, with these libraries preloaded."""
    # The worker is the one that lies beside this service.
    path = os.pathsep.join(filter(None, [CODE_FOLDER, environ.get("PYTHONPATH")]))
    inherited = preloads.put_into({**environ, "PYTHONPATH": path})
    # Nothing of the service's clients is the worker's concern.
    inherited.pop(API_KEYS_VARIABLE, None)
    return inherited
