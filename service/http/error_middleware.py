"""Adds the common headers to every response, and sends every error in the same JSON shape.

`ErrorMiddleware` must be in Starlette's own list of middleware. Around the whole
application it would be too late: Starlette sends a plain 500 of its own first.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from protocol.units import MS_PER_S
from service.errors import (
    ClientDisconnected,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    MlxdError,
    RenderedError,
    RouteNotFound,
    excerpt,
)
from service.http.anthropic_errors import REQUEST_ID_HEADER as ANTHROPIC_ID_HEADER
from service.http.anthropic_errors import is_anthropic, render_for
from service.http.unknown_fields import IGNORED_HEADER, header_of, ignored_of

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
# The time until the response begins, as OpenAI measures it.
PROCESSING_HEADER = "openai-processing-ms"
ADDED_HEADERS_KEY = "added_headers"
# What an endpoint says of tools that the model is not told of, and of messages left out.
LEFT_OUT_HEADER = "x-mlxd-left-out"
DROPPED_HEADER = "x-mlxd-dropped-messages"
# The tag of the replica that answers, where it has one.
REPLICA_HEADER = "x-mlxd-replica"
VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def added_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Further headers of the response to the request with this `scope`, to be added to."""
    headers: list[tuple[bytes, bytes]] = scope.setdefault("state", {}).setdefault(
        ADDED_HEADERS_KEY, []
    )
    return headers


class ErrorMiddleware:
    """ASGI middleware that assigns a request id, and sends a response for each exception.

    The id is the client's `x-request-id` if it is valid, else a new one. It is stored in
    `scope["state"]["request_id"]`. A response that has begun cannot become an error: it stays
    incomplete, and the server closes the connection.
    """

    def __init__(self, app: ASGIApp, replica_tag: str = "") -> None:
        self.app = app
        self._replica_tag = replica_tag

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        response_started = False
        received_at = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if is_anthropic(scope["path"], scope["headers"]):
                    headers[ANTHROPIC_ID_HEADER] = request_id
                if self._replica_tag:
                    headers[REPLICA_HEADER] = self._replica_tag
                if ignored := ignored_of(scope):
                    headers[IGNORED_HEADER] = header_of(ignored)
                headers.raw.extend(added_headers(scope))
                headers[PROCESSING_HEADER] = str(round((time.monotonic() - received_at) * MS_PER_S))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            _log_error(error, request_id, response_started=response_started)
            if not response_started:
                await _send_error(error, scope, send_with_headers)


def _request_id(scope: Scope) -> str:
    client_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return client_id if VALID_REQUEST_ID.fullmatch(client_id) else f"req_{uuid.uuid4().hex}"


def _log_error(error: Exception, request_id: str, *, response_started: bool) -> None:
    """Log an internal fault with its traceback, and any error that cuts a response short."""
    when = "after its response had begun" if response_started else "before its response"
    if isinstance(error, InternalError) or not isinstance(error, MlxdError):
        logger.error("Request %s failed %s", request_id, when, exc_info=error)
    elif response_started and not isinstance(error, ClientDisconnected):
        logger.warning("Request %s failed %s: %s", request_id, when, error.message)


async def _send_error(error: Exception, scope: Scope, send: Send) -> None:
    status, headers, body = _render(error, scope)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _to_mlxd_error(error: HTTPException, request: Request) -> MlxdError:
    """An `HTTPException` of the router as an error of the tree."""
    path = excerpt(request.scope["path"], 100)
    match error.status_code:
        case 404:
            return RouteNotFound(f"There is no endpoint {path}.")
        case 405:
            return MethodNotAllowed(f"{path} does not accept {excerpt(request.method, 20)}.")
        case status if status < 500:
            return InvalidRequest(error.detail)
        case _:
            return InternalError(error.detail)


def _render(error: Exception, scope: Scope) -> RenderedError:
    request_id = scope["state"]["request_id"]
    return render_for(error, scope["path"], scope["headers"], request_id)


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """The response for an `HTTPException` of the router; its headers (`Allow`) are kept."""
    assert isinstance(error, HTTPException)
    status, headers, body = _render(_to_mlxd_error(error, request), request.scope)
    response = Response(body, status, headers=error.headers)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response


EXCEPTION_HANDLERS: dict[object, ExceptionHandler] = {HTTPException: handle_http_exception}
