"""The ASGI app: the route list is the index of the API."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.authentication import Authentication
from service.bodies import JsonBodies
from service.catalog import Catalog
from service.endpoints.admin import Administration
from service.endpoints.capabilities import Capabilities
from service.endpoints.chat import ChatDialect
from service.endpoints.completions import CompletionDialect
from service.endpoints.generation import GenerationEndpoint
from service.endpoints.health import HealthReport
from service.endpoints.metrics import Metrics
from service.endpoints.models import Models
from service.endpoints.page import Page
from service.endpoints.status import StatusReport
from service.exchange import ExchangeMiddleware
from service.generations import Generations
from service.keyring import KeyRing
from service.limits import HeaderLimit
from service.observatory import Observatory
from service.openapi import describe_api
from service.quotas import Quotas
from service.responses import EXCEPTION_HANDLERS, ErrorResponses
from service.settings import Settings
from service.sites import Cors, SiteGuard, make_host_rule, parse_hosts, parse_origins
from service.supervisor import Supervisor


def build_app(
    settings: Settings,
    catalog: Catalog,
    supervisor: Supervisor,
    generations: Generations,
    observatory: Observatory,
    version: str,
    *,
    keys: KeyRing,
    address: str,
) -> Starlette:
    """The whole API over one worker's state, served to holders of `keys` on `address`."""
    hosts = parse_hosts(settings.allowed_hosts, "allowed_hosts")
    origins = parse_origins(settings.allowed_origins, "allowed_origins")
    quotas = Quotas(settings.key_max_concurrent, settings.key_tokens_per_minute)
    bodies = JsonBodies(settings.unknown_fields)
    keep_alive_s, kv = settings.keep_alive_s, settings.kv_quantisation
    chat = GenerationEndpoint(
        ChatDialect(), catalog, generations, bodies, keep_alive_s=keep_alive_s
    )
    completions = GenerationEndpoint(
        CompletionDialect(), catalog, generations, bodies, keep_alive_s=keep_alive_s
    )
    models = Models(catalog, supervisor)
    health = HealthReport(supervisor, version)
    page = Page()
    description = describe_api(version)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    routes = [
        Route("/v1/chat/completions", chat.create, methods=["POST"]),
        Route("/v1/completions", completions.create, methods=["POST"]),
        Route("/v1/capabilities", Capabilities(catalog, supervisor, kv).list, methods=["GET"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/models/{model:path}", models.get, methods=["GET"]),
        Route("/", page.index, methods=["GET"]),
        Route("/assets/{name}", page.asset, methods=["GET"]),
        Route("/status", StatusReport(health, supervisor, observatory).get, methods=["GET"]),
        *admin_routes(Administration(catalog, supervisor, bodies)),
        Route("/health", health.get, methods=["GET"]),
        Route("/metrics", Metrics(observatory.telemetry.registry).get, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        # Outermost first: error responses too are sent while an exchange reads on, and a page
        # that may call is told of them.
        middleware=[
            Middleware(ExchangeMiddleware, settings),
            *([Middleware(Cors, origins)] if origins else []),
            Middleware(ErrorResponses),
            observatory.middleware(),
            Middleware(HeaderLimit, settings.max_header_bytes),
            Middleware(SiteGuard, make_host_rule(address, hosts), origins),
            Middleware(Authentication, keys, quotas),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def admin_routes(admin: Administration) -> list[Route]:
    """What needs an administrator."""
    return [
        Route("/admin/models/{model:path}/load", admin.load, methods=["POST"]),
        Route("/admin/models/{model:path}/unload", admin.unload, methods=["POST"]),
        Route("/admin/models/{model:path}/pin", admin.pin, methods=["POST"]),
    ]
