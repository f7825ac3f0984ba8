"""A client that leaves takes its body with it, in whatever stage its request is."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.types import ASGIApp, Message

from protocol.events import Event, Progress, Started, TextDelta
from protocol.messages import Step, Submit
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.parts import BODIES, MODEL, STATS, make_app
from tests.waiting import HANG_S, POLL_S

pytestmark = pytest.mark.anyio

TEXT_BYTES = 2**20
# What an app may keep of a request: the record without its content, and caches.
KEPT_BYTES = TEXT_BYTES // 4
PIECE_BYTES = 64 * 1024


class Service:
    """The app with a worker that the test plays."""

    def __init__(self) -> None:
        self.worker = RecordingWorker()
        self.registry, self.app = make_app(self.worker)

    async def submitted_id(self, client: Client) -> int:
        """Wait until the worker has the client's request; its id."""
        while not self.worker.sent:
            assert not client.has_answer, "refused"
            await asyncio.sleep(0)
        [submit] = self.worker.sent
        assert isinstance(submit, Submit)
        self.worker.sent.clear()
        return submit.id

    def send(self, *events: Event) -> None:
        """Events of the worker."""
        self.registry.worker_stepped(Step(list(events), STATS))


class Client:
    """One request, which the test feeds."""

    def __init__(self, service: Service, path: str, text: str) -> None:
        body = (
            json.dumps(BODIES[path] | {"model": MODEL, "stream": True}).replace("{}", text).encode()
        )
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._first_bytes = asyncio.Event()
        headers = {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "content-length": str(len(body)),
        }
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self._running = asyncio.create_task(self._run(service.app, scope))
        self._pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._incoming.get, self._send)

    async def _send(self, message: Message) -> None:
        self._first_bytes.set()

    def send_body(self, *, whole: bool = True) -> None:
        """Send the body, or all but its last piece."""
        count = len(self._pieces)
        for number in range(count if whole else count - 1):
            more = number < count - 1
            piece = {"type": "http.request", "body": self._pieces[number], "more_body": more}
            self._incoming.put_nowait(piece)
        self._pieces.clear()

    @property
    def has_answer(self) -> bool:
        """Whether the answer has begun."""
        return self._first_bytes.is_set()

    async def wait_for_answer(self) -> None:
        """Wait for the first bytes of the answer."""
        await self._first_bytes.wait()

    async def leave(self) -> None:
        """Disconnect, and wait until the service has done with the request."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait([self._running])


async def leave_while_it_is_sent(service: Service, client: Client) -> None:
    client.send_body(whole=False)
    await asyncio.sleep(0)
    await client.leave()


async def leave_while_it_is_decoded(service: Service, client: Client) -> None:
    client.send_body()
    await asyncio.sleep(0)
    await client.leave()


async def leave_while_it_is_prepared(service: Service, client: Client) -> None:
    client.send_body()
    await service.submitted_id(client)
    await client.leave()


async def leave_while_it_waits_for_a_worker(service: Service, client: Client) -> None:
    client.send_body()
    await service.submitted_id(client)
    service.registry.worker_lost()
    await client.leave()
    service.registry.worker_ready()


async def leave_in_the_prefill(service: Service, client: Client) -> None:
    client.send_body()
    id = await service.submitted_id(client)
    service.send(Started(id, prompt_tokens=9), Progress(id, 1, 9))
    await client.wait_for_answer()
    await client.leave()


async def leave_in_the_stream(service: Service, client: Client) -> None:
    client.send_body()
    id = await service.submitted_id(client)
    service.send(Started(id, prompt_tokens=9), TextDelta(id, "a", [1]))
    await client.wait_for_answer()
    await client.leave()


STAGES: list[Callable[[Service, Client], Any]] = [
    leave_while_it_is_sent,
    leave_while_it_is_decoded,
    leave_while_it_is_prepared,
    leave_while_it_waits_for_a_worker,
    leave_in_the_prefill,
    leave_in_the_stream,
]


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only the garbage collector would free is kept."""
    gc.collect()
    gc.freeze()  # else each test looks through the same again
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("leave", STAGES)
@pytest.mark.usefixtures("without_collector")
async def test_nothing_of_a_body_is_kept(
    leave: Callable[[Service, Client], Any], path: str
) -> None:
    service = Service()
    # The first request of a kind fills caches.
    for text in ("a", "a" * TEXT_BYTES):
        before, _ = tracemalloc.get_traced_memory()
        await leave(service, Client(service, path, text))
        service.worker.sent.clear()
        await asyncio.sleep(0)
    deadline = time.monotonic() + HANG_S
    # A thread that has decoded a body lets go of it after it has handed over the result.
    while (kept := tracemalloc.get_traced_memory()[0] - before) >= KEPT_BYTES:
        assert time.monotonic() < deadline, f"{kept} bytes are kept"
        await asyncio.sleep(POLL_S)
    assert len(service.registry) == 0
