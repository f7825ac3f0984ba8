"""What has ended is freed at once: no request and no connection leaves a cycle.

Cycles are freed by full garbage collections alone, which stop all streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from protocol.events import Event, Finished, Started, TextDelta
from protocol.messages import Step, Submit, ToWorker
from service.inflight.registry import RequestRegistry
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.parts import BODIES, MODEL, STATS, make_app
from tests.service.transport.raw_connection import Client, ServedApp, connected, serving
from tests.waiting import HANG_S, POLL_S

pytestmark = pytest.mark.anyio

OURS = ("service.", "hypercorn.", "starlette.", "protocol.")


class AnsweringWorker(RecordingWorker):
    """Answers each request with two texts; without `ends` the second one never comes."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = True
        self.has_request = asyncio.Event()
        self.registry: RequestRegistry

    def send(self, message: ToWorker) -> None:
        if isinstance(message, Submit):
            self.has_request.set()
            asyncio.get_running_loop().call_soon(self._answer, message.id)

    def _answer(self, id: int) -> None:
        self._step(Started(id, prompt_tokens=2), TextDelta(id, "a", [1]))
        if self.ends:
            self._step(TextDelta(id, "b", [2]))
            self._step(Finished(id, "stop", 2, 2, queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0))

    def _step(self, *events: Event) -> None:
        self.registry.worker_stepped(Step(list(events), STATS))


class Service:
    """The app with that worker."""

    def __init__(self) -> None:
        self.worker = AnsweringWorker()
        self.registry, self.app = make_app(self.worker)
        self.worker.registry = self.registry


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loops that the service runs on."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only the garbage collector would free is kept, and shown."""
    gc.collect()
    gc.freeze()  # else each test looks through the same again
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def find_garbage() -> list[str]:
    """The types of what is in cycles that nothing refers to, of the service and its server."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
    gc.garbage.clear()
    return sorted(name for name in types if name.startswith(OURS))


async def send(client: Client, path: str, body: dict[str, Any], length: int = 0) -> None:
    """A request; with `length` its body is declared longer than it is."""
    data = json.dumps({"model": MODEL, **body}).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {length or len(data)}",
    )
    await client.send("\r\n".join([*lines, "", ""]).encode() + data)


async def read_answers(service: Service, client: Client, path: str) -> None:
    for _ in range(2):
        await send(client, path, BODIES[path])
        status, _, _ = await client.read_response()
        assert status == 200


async def read_stream(service: Service, client: Client, path: str) -> None:
    await send(client, path, BODIES[path] | {"stream": True})
    await client.reader.readuntil(b"\r\n0\r\n\r\n")


async def leave_stream(service: Service, client: Client, path: str) -> None:
    service.worker.ends = False
    await send(client, path, BODIES[path] | {"stream": True})
    await client.reader.readuntil(b'"a"')


async def reset_stream(service: Service, client: Client, path: str) -> None:
    await leave_stream(service, client, path)
    reset(client)


async def leave_before_the_answer(service: Service, client: Client, path: str) -> None:
    service.worker.ends = False
    service.worker.has_request.clear()
    await send(client, path, BODIES[path])
    await service.worker.has_request.wait()


async def reset_before_the_answer(service: Service, client: Client, path: str) -> None:
    await leave_before_the_answer(service, client, path)
    reset(client)


async def leave_within_the_body(service: Service, client: Client, path: str) -> None:
    await send(client, path, BODIES[path], length=9999)


async def send_what_is_refused(service: Service, client: Client, path: str) -> None:
    await send(client, path, BODIES[path] | {"temperature": "hot"})
    status, _, _ = await client.read_response()
    assert status == 400


async def send_what_is_no_request(service: Service, client: Client, path: str) -> None:
    await client.send(b"\x00\r\n\r\n")
    assert (await client.read_end()).startswith(b"HTTP/1.1 400 ")


async def wait_until_ended(service: Service, server: ServedApp) -> None:
    """Wait until no connection and no request is left."""
    deadline = time.monotonic() + HANG_S
    while len(server.connections) or len(service.registry):
        assert time.monotonic() < deadline, "something is left"
        await asyncio.sleep(POLL_S)


def reset(client: Client) -> None:
    """End a connection with a reset."""
    own: socket.socket = client.writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


WAYS: list[Callable[[Service, Client, str], Any]] = [
    read_answers,
    read_stream,
    leave_stream,
    reset_stream,
    leave_before_the_answer,
    reset_before_the_answer,
    leave_within_the_body,
    send_what_is_refused,
    send_what_is_no_request,
]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("without_collector")
async def test_no_request_and_no_connection_leaves_a_cycle(
    way: Callable[[Service, Client, str], Any], path: str
) -> None:
    service = Service()
    async with serving(service.app) as server:
        for _ in range(2):
            async with asyncio.timeout(HANG_S):
                with contextlib.suppress(ConnectionError):
                    async with connected(server.port) as client:
                        await way(service, client, path)
            await wait_until_ended(service, server)
        assert find_garbage() == []
