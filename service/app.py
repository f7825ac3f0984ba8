"""The ASGI app: one table of routes, from which the OpenAPI description is made too."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.chat.format import ChatFormat
from service.api.chat.routes import list_chat_operations
from service.api.completions.routes import list_completion_operations
from service.api.embeddings.routes import list_embedding_operations
from service.api.messages.routes import list_message_operations
from service.api.rerank.routes import list_rerank_operations
from service.api.responses.format import ResponseFormat
from service.api.responses.routes import list_response_operations
from service.api.tokenization.routes import list_tokenization_operations
from service.config.api_keys import ApiKey
from service.config.model_names import ModelNames
from service.config.model_settings import MODEL_KINDS, ModelKind, quantisations_of
from service.config.settings import Settings
from service.config.sources import softened_parameters
from service.errors import InsufficientMemory, ModelBusy, ModelLoadFailed
from service.generation.submitter import Submitter
from service.http.body_budget import BodyBudget
from service.http.decoding import DecodingRules
from service.http.error_middleware import EXCEPTION_HANDLERS, ErrorMiddleware
from service.http.header_limits import HeaderLimitMiddleware
from service.http.json_io import JsonBodies
from service.http.request_body import RequestReaderMiddleware
from service.inflight.registry import RequestRegistry
from service.openapi.descriptions import (
    METRICS_CONTENT,
    describe_command,
    describe_health,
    describe_model,
    describe_model_list,
    describe_read,
    describe_status,
    json_content,
)
from service.openapi.document import DESCRIPTION_PATH, describe_api
from service.openapi.operation import Operation, Struct
from service.ops.admin import AdminEndpoints
from service.ops.capabilities import CapabilitiesEndpoint
from service.ops.health import HealthEndpoint
from service.ops.metrics import MetricsEndpoint
from service.ops.model_list import ModelListEndpoint
from service.ops.page import PageEndpoints
from service.ops.settings_in_force import SettingsReport, Surroundings, find_without_effect
from service.ops.status import StatusEndpoint
from service.schema.capabilities import CapabilitiesList
from service.schema.health import Health, HealthSummary
from service.schema.models import (
    AnthropicModel,
    AnthropicModelList,
    Model,
    ModelList,
    OrderRequest,
    PinRequest,
)
from service.schema.status import ServiceStatus
from service.security.authentication import AuthenticationMiddleware, Spending
from service.security.clients import ClientNames
from service.security.keyring import KeyRing
from service.security.origins import (
    Cors,
    OriginGuard,
    make_host_rule,
    parse_hosts,
    parse_origins,
)
from service.security.rate_limits import RateLimits
from service.store.encoded_thinking import EncodedThinking
from service.store.opening import Stores
from service.supervision.supervisor import Supervisor
from service.telemetry.setup import Observability

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """The components that the endpoints use."""

    settings: Settings
    model_names: ModelNames
    supervisor: Supervisor
    registry: RequestRegistry
    clients: ClientNames
    observability: Observability
    stores: Stores
    thinking: EncodedThinking
    version: str
    keys_in_force: Callable[[], Sequence[ApiKey] | None]


def build_app(parts: ServiceParts, *, keys: KeyRing, address: str) -> Starlette:
    """The ASGI app with its middleware. `address` is the one that the service listens on."""
    settings = parts.settings
    hosts = parse_hosts(settings.allowed_hosts, "allowed_hosts")
    origins = parse_origins(settings.allowed_origins, "allowed_origins")
    rate_limits = RateLimits(settings.key_max_concurrent, settings.key_tokens_per_minute)
    operations = list_operations(parts)
    routes = build_routes(parts.version, operations)
    spending = {
        path: Spending(op.methods, tokens=op.spends_tokens)
        for op in operations
        if op.kind != "other"
        for path in op.paths
    }
    app = Starlette(
        routes=routes,
        # Outermost first: while an error response is sent, the request is still read, and
        # error responses have CORS headers too.
        middleware=[
            Middleware(
                RequestReaderMiddleware,
                settings,
                BodyBudget(settings.body_memory_bytes),
                parts.clients.find_name,
            ),
            *([Middleware(Cors, origins)] if origins else []),
            Middleware(ErrorMiddleware, settings.replica_tag),
            parts.observability.middleware(),
            Middleware(HeaderLimitMiddleware, settings.max_header_bytes),
            Middleware(
                OriginGuard, make_host_rule(address, hosts), origins, partial(is_routed, routes)
            ),
            Middleware(AuthenticationMiddleware, keys, rate_limits, spending),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    # Else a path with a slash behind it gets an empty 307, which no other unknown path gets.
    app.router.redirect_slashes = False
    return app


def build_routes(version: str, operations: Sequence[Operation]) -> list[Route]:
    """Starlette's routes of the table, and `/openapi.json`.

    The description is made for the first who asks: it is a third of the time of a start.
    """
    describe = functools.cache(partial(describe_api, version, operations))

    async def openapi(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(describe))

    return [
        *[
            # A model's id may contain slashes.
            Route(path.replace("{model}", "{model:path}"), op.endpoint, methods=[op.method])
            for op in operations
            for path in op.paths
        ],
        Route(DESCRIPTION_PATH, openapi, methods=["GET"]),
    ]


def is_routed(routes: Sequence[Route], scope: Scope) -> bool:
    """Whether one of the routes takes the request, with its method."""
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def list_operations(parts: ServiceParts) -> list[Operation]:
    """The route table, without `/openapi.json`, which is made from it."""
    generating = generation_operations(parts)
    return [
        *generating,
        *model_operations(parts, generating),
        *operator_operations(parts),
    ]


def make_bodies(parts: ServiceParts) -> JsonBodies:
    """The reader of request bodies, with the rules of the settings."""
    return JsonBodies(
        DecodingRules(parts.settings.unknown_fields, softened_parameters(parts.settings))
    )


def generation_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints that generate text, one dialect each, and those of vectors and a tokenizer."""
    settings = parts.settings
    submitter = Submitter(
        model_names=parts.model_names,
        registry=parts.registry,
        bodies=make_bodies(parts),
        clients=parts.clients,
        has_ceilings=settings.strict_max_tokens != "on",
        key_priority=settings.key_priority,
    )
    chat_format = ChatFormat(softened_parameters(settings))
    keep_alive_s = settings.keep_alive_s
    return [
        *list_chat_operations(chat_format, submitter, keep_alive_s=keep_alive_s),
        *list_completion_operations(submitter, keep_alive_s=keep_alive_s),
        *list_response_operations(
            response_format(parts), submitter, parts.stores, keep_alive_s=keep_alive_s
        ),
        *list_message_operations(submitter, parts.thinking, keep_alive_s=keep_alive_s),
        *list_embedding_operations(
            submitter, accepts_tokens=settings.embedding_token_ids == "accept"
        ),
        *list_rerank_operations(submitter),
        *list_tokenization_operations(chat_format, submitter),
    ]


def response_format(parts: ServiceParts) -> ResponseFormat:
    """The dialect of responses, which show what a model's own files set."""
    return ResponseFormat(
        lambda model: parts.supervisor.model_states.state(model).defaults,
        parts.thinking,
        ignores_effort="reasoning_effort" in softened_parameters(parts.settings),
        refuses_hosted=parts.settings.hosted_tools == "refuse",
        ids=parts.stores.ids,
    )


def model_operations(parts: ServiceParts, generating: Sequence[Operation]) -> list[Operation]:
    """Endpoints that list the models and their capabilities, and those that load and unload.

    The capabilities are those of the endpoints in `generating`.
    """
    names, supervisor = parts.model_names, parts.supervisor
    bodies = make_bodies(parts)
    models = ModelListEndpoint(names, supervisor)
    capabilities = CapabilitiesEndpoint(
        names,
        supervisor,
        kv_quantisation=quantisations_of(parts.settings.models, parts.settings.kv_quantisation),
        softened=softened_parameters(parts.settings),
        strict_max_tokens=parts.settings.strict_max_tokens == "on",
        endpoints={kind: requests_by_path(generating, kind) for kind in MODEL_KINDS},
        settings=SettingsReport(parts.settings, supervisor, partial(look_around, parts)),
    )
    admin = AdminEndpoints(names, supervisor, bodies)
    list_capabilities = describe_read(
        "listCapabilities",
        "List how each model handles each parameter, and the settings in force.",
        json_content(CapabilitiesList),
    )
    load = describe_command(
        "loadModel", "Load a model.", OrderRequest, errors=(InsufficientMemory, ModelLoadFailed)
    )
    unload = describe_command(
        "unloadModel", "Unload a model that has no requests.", OrderRequest, errors=(ModelBusy,)
    )
    pin = describe_command("pinModel", "Pin or unpin a model.", PinRequest, errors=())
    return [
        Operation(
            "GET",
            "/v1/capabilities",
            capabilities.list,
            list_capabilities,
            schemas=(CapabilitiesList,),
        ),
        Operation(
            "GET",
            "/v1/models",
            models.list,
            describe_model_list(),
            aliases=("/models",),
            schemas=(ModelList, AnthropicModelList),
        ),
        Operation(
            "GET",
            "/v1/models/{model}",
            models.get,
            describe_model(),
            aliases=("/models/{model}",),
            schemas=(Model, AnthropicModel),
        ),
        Operation(
            "POST", "/admin/models/{model}/load", admin.load, load, schemas=(OrderRequest, Model)
        ),
        Operation("POST", "/admin/models/{model}/unload", admin.unload, unload),
        Operation("POST", "/admin/models/{model}/pin", admin.pin, pin, schemas=(PinRequest,)),
    ]


def look_around(parts: ServiceParts) -> Surroundings:
    """What decides, besides the settings, whether one of them has an effect."""
    states = parts.supervisor.model_states.states
    return Surroundings(
        keys=parts.keys_in_force(),
        exports_traces=parts.observability.telemetry.tracer_provider is not None,
        contexts=[state.info.context_length for state in states if state.info is not None],
    )


def warn_without_effect(parts: ServiceParts) -> None:
    """Log the settings that are set and change nothing."""
    for each in find_without_effect(parts.settings, look_around(parts)):
        logger.warning("%s has no effect: %s", each.name, each.reason)


def requests_by_path(operations: Sequence[Operation], kind: ModelKind) -> dict[str, Struct]:
    """The structs of requests to models of a kind, and of those to any tokenizer."""
    return {
        op.path: op.request
        for op in operations
        if op.request is not None and op.kind in (kind, "tokenization")
    }


def operator_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints for the state of the service, and the page."""
    health = HealthEndpoint(parts.supervisor, parts.registry, parts.version)
    status = StatusEndpoint(health, parts.supervisor, parts.registry, parts.observability)
    metrics = MetricsEndpoint(parts.observability.telemetry.registry)
    page = PageEndpoints()
    read_metrics = describe_read("readMetrics", "Read the metrics for Prometheus.", METRICS_CONTENT)
    return [
        Operation("GET", "/health", health.get, describe_health(), schemas=(Health, HealthSummary)),
        Operation("GET", "/status", status.get, describe_status(), schemas=(ServiceStatus,)),
        Operation("GET", "/metrics", metrics.get, description=read_metrics),
        Operation("GET", "/", page.index),
        Operation("GET", "/assets/{name}", page.asset),
    ]
