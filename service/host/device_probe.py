"""The device and its memory, told by a worker that loads nothing and ends again.

The service itself must never touch the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from protocol.messages import Configure, Fatal, Ready, Shutdown, ToService
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
    """What the worker says of its device, or in words why it does not. `configure` has no models.

    `environ` is the worker's.
    """
    said: asyncio.Queue[ToService | int] = asyncio.Queue()
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    exited.add_done_callback(lambda ended: said.put_nowait(ended.result()))
    try:
        worker = WorkerProcess(
            command, environ, on_message=said.put_nowait, on_exit=exited.set_result
        )
    except OSError as error:
        return f"no worker can be started: {error}"
    try:
        worker.send(configure)
        return await first_answer(said, timeout_s)
    finally:
        worker.send(Shutdown())
        await asyncio.wait([exited], timeout=END_TIMEOUT_S)
        if not exited.done():
            worker.kill()
            await exited


async def first_answer(said: asyncio.Queue[ToService | int], timeout_s: float) -> Ready | str:
    """What came of it: the messages before do not matter."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                match await said.get():
                    case Ready() as ready:
                        return ready
                    case Fatal(message):
                        return message
                    case int(status):
                        return f"the worker ended with exit status {status}"
    except TimeoutError:
        return f"the worker said nothing for {timeout_s:g} seconds"
