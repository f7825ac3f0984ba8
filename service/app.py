"""The ASGI app: one table of routes, from which the OpenAPI description is made too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.chat.format import ChatFormat
from service.api.completions import CompletionFormat
from service.api.generation import GenerationEndpoint
from service.api.tokenization import TokenizationEndpoints
from service.config.model_names import ModelNames
from service.config.settings import Settings, softened_parameters
from service.errors import InsufficientMemory, ModelBusy, ModelLoadFailed
from service.http.body_budget import BodyBudget
from service.http.decoding import DecodingRules
from service.http.error_middleware import EXCEPTION_HANDLERS, ErrorMiddleware
from service.http.header_limits import HeaderLimitMiddleware
from service.http.json_io import JsonBodies
from service.http.request_body import RequestReaderMiddleware
from service.inflight.registry import RequestRegistry
from service.openapi import (
    DESCRIPTION_PATH,
    METRICS_CONTENT,
    Operation,
    RouteKind,
    describe_api,
    describe_command,
    describe_generation,
    describe_health,
    describe_model,
    describe_read,
    describe_status,
    describe_tokenization,
    describe_tokenizer_info,
    json_content,
)
from service.ops.admin import AdminEndpoints
from service.ops.capabilities import CapabilitiesEndpoint
from service.ops.health import HealthEndpoint
from service.ops.metrics import MetricsEndpoint
from service.ops.model_list import ModelListEndpoint
from service.ops.page import PageEndpoints
from service.ops.status import StatusEndpoint
from service.schema.capabilities import CapabilitiesList
from service.schema.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from service.schema.completions import Completion, CompletionRequest
from service.schema.models import ModelList, OrderRequest, PinRequest
from service.schema.tokenization import (
    ApplyTemplateRequest,
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    RenderedTemplate,
    TokenizeRequest,
    TokenizeResponse,
)
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
from service.supervision.supervisor import Supervisor
from service.telemetry.setup import Observability


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """The components that the endpoints use."""

    settings: Settings
    model_names: ModelNames
    supervisor: Supervisor
    registry: RequestRegistry
    clients: ClientNames
    observability: Observability
    version: str


def build_app(parts: ServiceParts, *, keys: KeyRing, address: str) -> Starlette:
    """The ASGI app with its middleware. `address` is the one that the service listens on."""
    settings = parts.settings
    hosts = parse_hosts(settings.allowed_hosts, "allowed_hosts")
    origins = parse_origins(settings.allowed_origins, "allowed_origins")
    rate_limits = RateLimits(settings.key_max_concurrent, settings.key_tokens_per_minute)
    operations = list_operations(parts)
    routes = build_routes(parts.version, operations)
    spending = {
        path: Spending(op.methods, tokens=op.is_generation)
        for op in operations
        if op.kind != "other"
        for path in op.paths
    }
    return Starlette(
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
            Middleware(ErrorMiddleware),
            parts.observability.middleware(),
            Middleware(HeaderLimitMiddleware, settings.max_header_bytes),
            Middleware(
                OriginGuard, make_host_rule(address, hosts), origins, partial(is_routed, routes)
            ),
            Middleware(AuthenticationMiddleware, keys, rate_limits, spending),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def build_routes(version: str, operations: Sequence[Operation]) -> list[Route]:
    """Starlette's routes of the table, and `/openapi.json`."""
    description = describe_api(version, operations)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

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
    return [
        *generation_operations(parts),
        *tokenization_operations(parts),
        *model_operations(parts),
        *operator_operations(parts),
    ]


def make_bodies(parts: ServiceParts) -> JsonBodies:
    """The reader of request bodies, with the rules of the settings."""
    return JsonBodies(
        DecodingRules(parts.settings.unknown_fields, softened_parameters(parts.settings))
    )


def generation_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints that generate text."""
    names, registry = parts.model_names, parts.registry
    softened = softened_parameters(parts.settings)
    bodies = make_bodies(parts)
    keep_alive_s = parts.settings.keep_alive_s
    strict_max_tokens = parts.settings.strict_max_tokens == "on"
    chat = GenerationEndpoint(
        ChatFormat(softened),
        model_names=names,
        registry=registry,
        bodies=bodies,
        clients=parts.clients,
        keep_alive_s=keep_alive_s,
        strict_max_tokens=strict_max_tokens,
    )
    completions = GenerationEndpoint(
        CompletionFormat(),
        model_names=names,
        registry=registry,
        bodies=bodies,
        clients=parts.clients,
        keep_alive_s=keep_alive_s,
        strict_max_tokens=strict_max_tokens,
    )
    return [
        Operation(
            "POST",
            "/v1/chat/completions",
            chat.create,
            description=describe_generation(
                "createChatCompletion",
                "Create a chat completion.",
                request=ChatRequest,
                response=ChatCompletion,
                chunk=ChatCompletionChunk,
                strict_max_tokens=strict_max_tokens,
            ),
            aliases=("/chat/completions",),
            kind="generation",
        ),
        Operation(
            "POST",
            "/v1/completions",
            completions.create,
            description=describe_generation(
                "createCompletion",
                "Create a completion.",
                request=CompletionRequest,
                response=Completion,
                chunk=Completion,
                strict_max_tokens=strict_max_tokens,
            ),
            aliases=("/completions",),
            kind="generation",
        ),
    ]


def tokenization_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints of a model's tokenizer alone."""
    endpoints = TokenizationEndpoints(
        ChatFormat(softened_parameters(parts.settings)),
        model_names=parts.model_names,
        registry=parts.registry,
        bodies=make_bodies(parts),
        clients=parts.clients,
    )
    tokenize = describe_tokenization(
        "tokenize",
        "Tokenize a text, or the prompt that messages make.",
        request=TokenizeRequest,
        responses=[TokenizeResponse, ContentTokens],
    )
    detokenize = describe_tokenization(
        "detokenize",
        "Convert token ids to text.",
        request=DetokenizeRequest,
        responses=[DetokenizeResponse],
    )
    apply_template = describe_tokenization(
        "applyTemplate",
        "Render messages with the model's chat template.",
        request=ApplyTemplateRequest,
        responses=[RenderedTemplate],
    )
    kind: RouteKind = "tokenization"
    return [
        Operation("POST", "/tokenize", endpoints.tokenize, tokenize, kind=kind),
        Operation("POST", "/detokenize", endpoints.detokenize, detokenize, kind=kind),
        Operation("POST", "/apply-template", endpoints.apply_template, apply_template, kind=kind),
        Operation(
            "GET", "/tokenizer_info", endpoints.describe, describe_tokenizer_info(), kind=kind
        ),
    ]


def model_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints that list the models and their capabilities, and those that load and unload."""
    names, supervisor = parts.model_names, parts.supervisor
    bodies = make_bodies(parts)
    models = ModelListEndpoint(names, supervisor)
    capabilities = CapabilitiesEndpoint(
        names,
        supervisor,
        kv_quantisation=parts.settings.kv_quantisation,
        softened=softened_parameters(parts.settings),
        strict_max_tokens=parts.settings.strict_max_tokens == "on",
    )
    admin = AdminEndpoints(names, supervisor, bodies)
    list_capabilities = describe_read(
        "listCapabilities",
        "List how each model handles each parameter.",
        json_content(CapabilitiesList),
    )
    load = describe_command(
        "loadModel", "Load a model.", OrderRequest, errors=(InsufficientMemory, ModelLoadFailed)
    )
    unload = describe_command(
        "unloadModel", "Unload a model that has no requests.", OrderRequest, errors=(ModelBusy,)
    )
    pin = describe_command("pinModel", "Pin or unpin a model.", PinRequest, errors=())
    list_models = describe_read("listModels", "List the models.", json_content(ModelList))
    return [
        Operation("GET", "/v1/capabilities", capabilities.list, description=list_capabilities),
        Operation("GET", "/v1/models", models.list, list_models, aliases=("/models",)),
        Operation(
            "GET",
            "/v1/models/{model}",
            models.get,
            describe_model(),
            aliases=("/models/{model}",),
        ),
        Operation("POST", "/admin/models/{model}/load", admin.load, description=load),
        Operation("POST", "/admin/models/{model}/unload", admin.unload, description=unload),
        Operation("POST", "/admin/models/{model}/pin", admin.pin, description=pin),
    ]


def operator_operations(parts: ServiceParts) -> list[Operation]:
    """Endpoints for the state of the service, and the page."""
    health = HealthEndpoint(parts.supervisor, parts.registry, parts.version)
    status = StatusEndpoint(health, parts.supervisor, parts.observability)
    metrics = MetricsEndpoint(parts.observability.telemetry.registry)
    page = PageEndpoints()
    read_metrics = describe_read("readMetrics", "Read the metrics for Prometheus.", METRICS_CONTENT)
    return [
        Operation("GET", "/health", health.get, description=describe_health()),
        Operation("GET", "/status", status.get, description=describe_status()),
        Operation("GET", "/metrics", metrics.get, description=read_metrics),
        Operation("GET", "/", page.index),
        Operation("GET", "/assets/{name}", page.asset),
    ]
