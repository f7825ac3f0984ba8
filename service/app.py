"""The ASGI app: the route list is the index of the API."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.bodies import JsonBodies
from service.catalog import Catalog
from service.endpoints.chat import ChatDialect
from service.endpoints.completions import CompletionDialect
from service.endpoints.generation import GenerationEndpoint
from service.endpoints.health import HealthReport
from service.endpoints.models import Models
from service.exchange import ExchangeMiddleware
from service.generations import Generations
from service.limits import HeaderLimit
from service.openapi import describe_api
from service.responses import EXCEPTION_HANDLERS, ErrorResponses
from service.settings import Settings
from service.supervisor import Supervisor


def build_app(
    settings: Settings,
    catalog: Catalog,
    supervisor: Supervisor,
    generations: Generations,
    version: str,
) -> Starlette:
    """The whole API over one worker's state."""
    bodies = JsonBodies(settings.unknown_fields)
    keep_alive_s = settings.keep_alive_s
    chat = GenerationEndpoint(
        ChatDialect(), catalog, generations, bodies, keep_alive_s=keep_alive_s
    )
    completions = GenerationEndpoint(
        CompletionDialect(), catalog, generations, bodies, keep_alive_s=keep_alive_s
    )
    models = Models(catalog, supervisor)
    health = HealthReport(supervisor, version)
    description = describe_api(version)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    routes = [
        Route("/v1/chat/completions", chat.create, methods=["POST"]),
        Route("/v1/completions", completions.create, methods=["POST"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/models/{model:path}", models.get, methods=["GET"]),
        Route("/health", health.get, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        # Outermost first: error responses too are sent while an exchange reads on.
        middleware=[
            Middleware(ExchangeMiddleware, settings),
            Middleware(ErrorResponses),
            Middleware(HeaderLimit, settings.max_header_bytes),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
