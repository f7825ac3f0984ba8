"""A worker on a Mac whose memory a model nearly fills: what it wires, when, and what it tells."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from protocol.messages import Fatal, Loading, ModelsChanged, ModelSource, Ready, Shutdown, ToService
from protocol.wiring import WiredLimit
from service.supervision.process import WorkerProcess
from tests.waiting import HANG_S
from tests.worker.driver import make_configure

pytestmark = pytest.mark.anyio

MIB = 1 << 20
# The worker, with what it asks a Mac. The limit that is set, and how much of the model was loaded
# then, are written to standard error.
PROGRAM = """
import platform, sys
from multiprocessing.connection import Connection
import mlx.core as mx
info = mx.device_info()
mx.device_info = lambda: info | {"max_recommended_working_set_size": int(sys.argv[1])}
mx.set_wired_limit = lambda limit: sys.stderr.write(f"{limit} {mx.get_active_memory()}")
platform.mac_ver = lambda: ("15.5", ("", "", ""), "arm64")
from worker.main import run
sys.exit(run(Connection(int(sys.argv[2]))))
"""


async def run_worker(
    path: Path, limit: WiredLimit, recommended_bytes: int
) -> tuple[Ready | Fatal, str]:
    """The worker's answer to its configuration, and what it has written; it is ended then."""
    received: asyncio.Queue[ToService | int] = asyncio.Queue()
    worker = WorkerProcess(
        [sys.executable, "-c", PROGRAM, str(recommended_bytes)],
        os.environ,
        on_message=received.put_nowait,
        on_exit=received.put_nowait,
    )
    configure = make_configure([ModelSource("tiny", str(path))])
    worker.send(
        msgspec.structs.replace(configure, wired_limit_bytes=limit, memory_limit_bytes=1024 * MIB)
    )
    try:
        async with asyncio.timeout(HANG_S):
            while isinstance(message := await received.get(), Loading | ModelsChanged):
                pass
            worker.send(Shutdown())
            while not isinstance(await received.get(), int):
                pass
    finally:
        worker.kill()
    assert isinstance(message, Ready | Fatal)
    return message, worker.last_words


def weights_of(path: Path) -> int:
    return (path / "model.safetensors").stat().st_size


async def test_auto_wires_the_weights_once_they_are_loaded(llama_path: Path) -> None:
    recommended = int(weights_of(llama_path) * 1.3)
    ready, written = await run_worker(llama_path, "auto", recommended)
    assert isinstance(ready, Ready)
    assert ready.wiring is not None
    assert ready.device.recommended_bytes == recommended
    limit, loaded = map(int, written.split())
    assert limit == ready.wiring.limit_bytes == pytest.approx(weights_of(llama_path), rel=0.1)
    assert loaded >= limit


@pytest.mark.long
async def test_auto_wires_nothing_where_the_weights_are_small(llama_path: Path) -> None:
    ready, written = await run_worker(llama_path, "auto", 2 * weights_of(llama_path))
    assert isinstance(ready, Ready)
    assert ready.wiring is not None
    assert (ready.wiring.limit_bytes, written) == (0, "")
    assert "not more than 60%" in ready.wiring.reason


async def test_by_default_nothing_is_said_or_wired(llama_path: Path) -> None:
    ready, written = await run_worker(llama_path, 0, weights_of(llama_path))
    assert isinstance(ready, Ready)
    assert (ready.wiring, written) == (None, "")


async def test_a_limit_that_metal_refuses_ends_the_start_with_a_sentence(llama_path: Path) -> None:
    fatal, written = await run_worker(llama_path, 900 * MIB, 800 * MIB)
    assert isinstance(fatal, Fatal)
    assert fatal.message.startswith("wired_limit_bytes 943718400 is more than the 838860800 bytes")
    assert written == ""
