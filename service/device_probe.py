"""The device and its memory, told by a worker that loads nothing and ends again.

The service itself must never touch the device.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence

from protocol.messages import Configure, Fatal, Ready, Shutdown, ToService
from service.process import WORKER_COMMAND, WorkerProcess

TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0


def probe(
    configure: Configure,
    environ: Mapping[str, str],
    *,
    command: Sequence[str] = WORKER_COMMAND,
    timeout_s: float = TIMEOUT_S,
) -> Ready | str:
    """What the worker says of its device, or in words why it does not. `configure` has no models.

    `environ` is the worker's.
    """
    said: queue.SimpleQueue[ToService | int] = queue.SimpleQueue()
    try:
        worker = WorkerProcess(command, environ, on_message=said.put, on_exit=said.put)
    except OSError as error:
        return f"no worker can be started: {error}"
    try:
        worker.send(configure)
        return first_answer(said, timeout_s)
    finally:
        worker.send(Shutdown())
        if not worker.join(END_TIMEOUT_S):
            worker.kill()
            worker.join(END_TIMEOUT_S)


def first_answer(said: queue.SimpleQueue[ToService | int], timeout_s: float) -> Ready | str:
    """What came of it: the messages before do not matter."""
    while True:
        try:
            match said.get(timeout=timeout_s):
                case Ready() as ready:
                    return ready
                case Fatal(message):
                    return message
                case int(status):
                    return f"the worker ended with exit status {status}"
        except queue.Empty:
            return f"the worker said nothing for {timeout_s:g} seconds"
