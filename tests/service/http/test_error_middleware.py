from __future__ import annotations

import logging
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest
from service.http.error_middleware import EXCEPTION_HANDLERS, ErrorMiddleware

pytestmark = pytest.mark.anyio


async def hello(request: Request) -> Response:
    return PlainTextResponse(request.state.request_id)


async def refuse(request: Request) -> Response:
    raise InvalidRequest("no", param="n", code="invalid_value")


async def fail(request: Request) -> Response:
    raise ZeroDivisionError("a secret")


def starlette(replica_tag: str = "") -> ASGIApp:
    routes = [
        Route("/hello", hello),
        Route("/refuse", refuse, methods=["POST"]),
        Route("/fail", fail),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(ErrorMiddleware, replica_tag)],
        exception_handlers=EXCEPTION_HANDLERS,
    )


async def send_request(
    path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> httpx.Response:
    transport = httpx.ASGITransport(starlette())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=headers)


async def test_a_response_has_a_request_id() -> None:
    response = await send_request("/hello")
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.text == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/hello", "/fail", "/nowhere"])
async def test_every_response_names_its_replica_if_it_has_a_tag(path: str) -> None:
    tagged = httpx.ASGITransport(starlette("b"))
    async with httpx.AsyncClient(transport=tagged, base_url="http://test") as client:
        assert (await client.get(path)).headers["x-mlxd-replica"] == "b"
    assert "x-mlxd-replica" not in (await send_request(path)).headers


async def test_two_requests_have_two_ids() -> None:
    first, second = await send_request("/hello"), await send_request("/hello")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_valid_id_of_the_client_is_kept() -> None:
    response = await send_request("/hello", headers={"x-request-id": "My-Trace_1.a"})
    assert response.headers["x-request-id"] == response.text == "My-Trace_1.a"


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 129, "evil\x1b[0m", "a/b", "\xe9"])
async def test_an_invalid_id_of_the_client_is_replaced(client_id: str) -> None:
    headers = {"x-request-id": client_id.encode("latin-1")}
    transport = httpx.ASGITransport(starlette())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/hello", headers=headers)  # type: ignore[arg-type]
    assert response.text.startswith("req_")


async def test_an_error_of_an_endpoint_is_rendered_with_the_id() -> None:
    response = await send_request("/refuse", "POST")
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }
    assert response.headers["x-request-id"].startswith("req_")


async def test_a_fault_is_a_500_whose_text_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await send_request("/fail")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError: a secret" in caplog.text


async def test_an_unknown_route_is_a_404_in_the_same_shape() -> None:
    response = await send_request("/nowhere")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")


async def test_a_wrong_method_is_a_405_with_the_allowed_methods() -> None:
    response = await send_request("/refuse")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


async def test_a_hostile_path_is_quoted_short_and_on_one_line() -> None:
    response = await send_request("/%0a[INFO]%20FAKE" + "x" * 10_000)
    message = response.json()["error"]["message"]
    assert "\\n[INFO] FAKE" in message
    assert len(message) < 200


async def test_a_response_that_has_begun_stays_incomplete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("broken stream")

    sent = await drive(app)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
    assert "broken stream" in caplog.text


async def test_a_refusal_is_not_logged_as_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="service"):
        await send_request("/refuse", "POST")
    assert caplog.records == []


async def drive(app: ASGIApp) -> list[Message]:
    """Send one request through the middleware and `app`; the messages of the response."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is not read")

    async def send(message: Message) -> None:
        sent.append(message)

    await ErrorMiddleware(app)({"type": "http", "path": "/", "headers": []}, receive, send)
    return sent


VERSION = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/messages", {}),
        ("/messages/batches", {}),
        ("/v1/models/m", VERSION),
        ("/models", VERSION),
    ],
)
async def test_anthropics_clients_read_errors_of_their_own_shape(
    path: str, headers: dict[str, str]
) -> None:
    response = await send_request(path, headers=headers)
    request_id = response.headers["request-id"]
    assert request_id == response.headers["x-request-id"]
    assert response.json() == {
        "type": "error",
        "error": {"type": "not_found_error", "message": f"There is no endpoint {path}."},
        "request_id": request_id,
    }


@pytest.mark.parametrize(
    ("path", "headers"), [("/v1/models", {}), ("/v1/messages_", {}), ("/v1/chat", VERSION)]
)
async def test_other_errors_keep_openais_shape(path: str, headers: dict[str, str]) -> None:
    response = await send_request(path, headers=headers)
    assert response.json()["error"]["code"] == "not_found"
    assert "request-id" not in response.headers
