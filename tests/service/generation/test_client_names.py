"""A request that waits for the first worker has the name that its client has when it is sent."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from starlette.requests import Request

from protocol.messages import ToWorker
from protocol.tokenization import Tokenize
from service.config.model_names import ModelNames
from service.config.settings import Settings
from service.generation.submitter import Submitter
from service.http.decoding import DecodingRules
from service.http.json_io import JsonBodies
from service.inflight.registry import RequestRegistry
from service.security.clients import ClientNames, PeerNames
from service.security.peer_processes import PeerProcesses
from tests.service.api.body_reader import BodyReader
from tests.service.inflight.recording_worker import RecordingWorker
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

PORTS, SERVER_PORT, PROCESS = (5000, 5001, 5002), 8000, 11


class LoadingWorker(RecordingWorker):
    """A worker that is ready when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.status = "loading"
        self.loaded = asyncio.Event()
        self.arrived: asyncio.Queue[ToWorker] = asyncio.Queue()

    def send(self, message: ToWorker) -> None:
        self.arrived.put_nowait(message)

    async def wait_loaded(self, timeout_s: float) -> None:
        await self.loaded.wait()
        self.status = "healthy"


async def test_requests_of_one_process_that_waited_for_the_first_worker_are_one_clients() -> None:
    worker = LoadingWorker()
    registry = RequestRegistry(worker, max_in_flight=8, load_wait_s=HANG_S, queue_timeout_s=60)
    connections = [(port, SERVER_PORT) for port in PORTS]
    processes = PeerProcesses(
        lambda peers: None,
        lambda pids, _: ((pid, connections) for pid in pids),
        lambda: [PROCESS],
    )
    submitter = Submitter(
        model_names=ModelNames(Settings().models),
        registry=registry,
        bodies=JsonBodies(DecodingRules()),
        clients=ClientNames(PeerNames(processes, registry.rename_client)),
    )
    tokenize = Tokenize(0, "m", msgspec.Raw(b"null"))
    requests = [
        asyncio.create_task(submitter.tokenize(request_from(port), tokenize)) for port in PORTS
    ]
    await asyncio.sleep(0)
    worker.loaded.set()
    registry.worker_ready()
    for _ in PORTS:
        await worker.arrived.get()
    clients = {sequence.submit.client for sequence in registry.list_oldest(len(PORTS))}
    assert clients == {f"process {PROCESS}"}
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)


def request_from(port: int) -> Request:
    scope = {
        "type": "http",
        "headers": [],
        "client": ("127.0.0.1", port),
        "server": ("127.0.0.1", SERVER_PORT),
        "state": {"request_reader": BodyReader({})},
    }
    return Request(scope)
