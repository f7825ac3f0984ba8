"""Reads the device and its memory from a short-lived worker that loads no model.

The service itself must never touch the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from protocol.messages import Configure, Fatal, Ready, Shutdown, ToService
from service.supervision.exit_reason import LAST_WORDS_CHARS, end_of
from service.supervision.process import WORKER_COMMAND, WorkerProcess

TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0


async def probe(
    configure: Configure,
    environ: Mapping[str, str],
    *,
    command: Sequence[str] = WORKER_COMMAND,
    timeout_s: float = TIMEOUT_S,
) -> Ready | str:
    """The worker's `Ready`, or why there is none. `configure` has no models.

    `environ` is the worker's environment.
    """
    # The worker's messages, then its exit status.
    received: asyncio.Queue[ToService | int] = asyncio.Queue()
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    exited.add_done_callback(lambda future: received.put_nowait(future.result()))
    try:
        worker = WorkerProcess(
            command, environ, on_message=received.put_nowait, on_exit=exited.set_result
        )
    except OSError as error:
        return f"no worker can be started: {error}"
    try:
        worker.send(configure)
        result = await wait_ready(received, timeout_s)
        return result if isinstance(result, Ready | str) else describe_end(result, worker)
    finally:
        worker.send(Shutdown())
        await asyncio.wait([exited], timeout=END_TIMEOUT_S)
        if not exited.done():
            worker.kill()
            await exited


def describe_end(status: int, worker: WorkerProcess) -> str:
    """Why a worker that sent no last message has ended."""
    ended = f"the worker ended with exit status {status}"
    said = end_of(worker.last_words, LAST_WORDS_CHARS)
    return f"{ended}; its standard error ended with: {said}" if said else ended


async def wait_ready(
    received: asyncio.Queue[ToService | int], timeout_s: float
) -> Ready | str | int:
    """`Ready`, why there is none, or the exit status; the messages before it are ignored."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                match await received.get():
                    case Ready() as ready:
                        return ready
                    case Fatal(message):
                        return message
                    case int(status):
                        return status
    except TimeoutError:
        return f"the worker was not ready after {timeout_s:g} seconds"
