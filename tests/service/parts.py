"""The components of a service whose worker is not started."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from starlette.applications import Starlette

from protocol.stats import Memory, Stats
from service.app import ServiceParts, build_app, generation_operations, list_operations
from service.commands.serve import make_registry, make_thinking, to_configure
from service.config.model_names import ModelNames
from service.config.settings import Settings
from service.inflight.registry import RequestRegistry
from service.openapi.document import describe_api
from service.openapi.operation import Json
from service.security.clients import ClientNames, PeerNames
from service.security.keyring import KeyRing
from service.security.peer_processes import PeerProcesses
from service.store.opening import open_memory_stores
from service.supervision.supervisor import Supervisor
from service.supervision.worker_clocks import Timeouts
from service.telemetry.exporters import Exporters
from service.telemetry.setup import Observability
from tests.service.inflight.recording_worker import RecordingWorker

STATS = Stats(running=1, waiting=0, memory=Memory(0, 0, 0, 0, 0), device_ms=0.0, host_ms=0.0)
MODEL = Settings().models[0].id
CHAT = {"messages": [{"role": "user", "content": "{}"}]}
# Requests for text, by path. The text of the prompt is `{}`.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "{}"},
    "/v1/messages": {**CHAT, "max_tokens": 9},
    "/v1/responses": {"input": "{}"},
}


def make_parts(settings: Settings | None = None) -> ServiceParts:
    """All components; no worker is started."""
    settings = settings or Settings()
    supervisor = Supervisor(
        to_configure(settings),
        ("no-worker",),
        {},
        timeouts=Timeouts(load_timeout_s=1.0, stall_s=1.0),
        on_loading=lambda loading: None,
    )
    return ServiceParts(
        settings=settings,
        model_names=ModelNames(settings.models),
        supervisor=supervisor,
        registry=make_registry(settings, supervisor),
        clients=ClientNames(PeerNames(PeerProcesses())),
        observability=Observability(Exporters(), "tested", record_content=False),
        thinking=make_thinking(settings),
        stores=open_memory_stores(
            settings.response_store_bytes,
            settings.response_store_ttl_s,
            tag=settings.replica_tag,
        ),
        version="tested",
        keys_in_force=lambda: None,
    )


def make_app(worker: RecordingWorker) -> tuple[RequestRegistry, Starlette]:
    """The app with this worker, which is ready, and its registry."""
    registry = RequestRegistry(worker, max_in_flight=8, load_wait_s=0.0, queue_timeout_s=60.0)
    registry.worker_ready()
    parts = dataclasses.replace(make_parts(), registry=registry)
    return registry, build_app(parts, keys=KeyRing(), address="127.0.0.1")


def request_types() -> dict[str, type[msgspec.Struct]]:
    """The structs of the requests that generate, by path."""
    operations = generation_operations(make_parts())
    return {op.path: op.request for op in operations if op.request is not None}


def describe(version: str) -> Json:
    """The OpenAPI document of the route table."""
    return describe_api(version, list_operations(make_parts()))
