"""The app's routes, the route table and the OpenAPI document are the same set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from service.app import build_app, list_operations
from service.openapi.document import DESCRIPTION_PATH, describe_api
from service.openapi.operation import Json, Operation
from service.security.keyring import KeyRing
from tests.service.parts import make_parts

# Values of path parameters. A model's id may contain slashes.
PARAMETERS = {"{model}": "org/name", "{name}": "main.js"}
PARTS = make_parts()
OPERATIONS = list_operations(PARTS)
DOCUMENT = describe_api("1", OPERATIONS)
ROUTES = build_app(PARTS, keys=KeyRing(), address="127.0.0.1").routes


def template_of(route: BaseRoute) -> str:
    """The path of a route as OpenAPI writes it."""
    assert isinstance(route, Route)
    return route.path.replace(":path}", "}")


def undeclared(routes: Iterable[BaseRoute], operations: Iterable[Operation]) -> list[str]:
    """The routes that are neither an operation of the table nor the description itself."""
    declared = {(op.method, path) for op in operations for path in op.paths}
    declared.add(("GET", DESCRIPTION_PATH))
    return [
        f"{method} {template_of(route)}"
        for route in routes
        if isinstance(route, Route)
        # Starlette adds HEAD to every GET.
        for method in sorted((route.methods or set()) - {"HEAD"})
        if (method, template_of(route)) not in declared
    ]


def unrouted(routes: Sequence[BaseRoute], document: Json) -> list[str]:
    """The operations of the document whose requests the router sends elsewhere or nowhere."""
    return [
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if template_at(routes, method.upper(), path) != path
    ]


def template_at(routes: Sequence[BaseRoute], method: str, path: str) -> str | None:
    """The path of the first route that handles a request to `path`; None if there is none."""
    for parameter, value in PARAMETERS.items():
        path = path.replace(parameter, value)
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return template_of(route)
    return None


async def respond(request: Request) -> Response:
    return Response()


def test_every_route_is_an_operation_of_the_table() -> None:
    assert undeclared(ROUTES, OPERATIONS) == []


def test_a_route_beside_the_table_is_found() -> None:
    routes = [*ROUTES, Route("/debug/{model:path}", respond, methods=["GET"])]
    assert undeclared(routes, OPERATIONS) == ["GET /debug/{model}"]
    assert undeclared(ROUTES, OPERATIONS[1:]) == [
        "POST /v1/chat/completions",
        "POST /chat/completions",
    ]


def test_every_described_operation_reaches_its_route() -> None:
    assert unrouted(ROUTES, DOCUMENT) == []


def test_a_described_operation_without_a_route_is_found() -> None:
    operations = [*OPERATIONS, Operation("POST", "/v1/nothing", respond, description={})]
    operations += [Operation("POST", "/health", respond, description={})]
    document = describe_api("1", operations)
    assert unrouted(ROUTES, document) == ["POST /health", "POST /v1/nothing"]


def test_an_operation_that_an_earlier_route_hides_is_found() -> None:
    hiding = Route("/v1/{name:path}", respond, methods=["GET"])
    assert unrouted([hiding, *ROUTES], DOCUMENT) == [
        "GET /v1/responses/{id}",
        "GET /v1/responses/{id}/input_items",
        "GET /v1/conversations/{id}",
        "GET /v1/conversations/{id}/items",
        "GET /v1/conversations/{id}/items/{item}",
        "GET /v1/capabilities",
        "GET /v1/models",
        "GET /v1/models/{model}",
    ]


def test_a_path_without_the_version_is_the_same_route() -> None:
    aliases = {alias: op for op in OPERATIONS for alias in op.aliases}
    assert {"/chat/completions", "/completions", "/models", "/models/{model}"} <= aliases.keys()
    endpoints = {template_of(route): route.endpoint for route in ROUTES if isinstance(route, Route)}
    for alias, op in aliases.items():
        # Cohere's clients ask for its second version.
        assert op.path == f"/v1{alias.removeprefix('/v2')}"
        assert endpoints[alias] == endpoints[op.path]


def test_only_the_page_is_not_described() -> None:
    assert [op.path for op in OPERATIONS if op.description is None] == ["/", "/assets/{name}"]
