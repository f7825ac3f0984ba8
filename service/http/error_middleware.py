"""Every response carries a request id, and every failure is answered in one shape.

`ErrorMiddleware` belongs into Starlette's own list of middleware: wrapped around
the whole application it would find Starlette's plain 500 sent before it.
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
    RouteNotFound,
    excerpt,
    render,
)

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
# Until the response begins, as OpenAI counts it.
PROCESSING_HEADER = "openai-processing-ms"
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class ErrorMiddleware:
    """ASGI middleware: names the request, and answers for whatever `app` raises.

    The id is the client's own `x-request-id` where that is sane, else a new one;
    it is `scope["state"]["request_id"]` for all inside. A response that has begun
    cannot become an error: it is left unfinished, and the server ends the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False
        began = time.monotonic()

        async def send_named(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers[PROCESSING_HEADER] = str(round((time.monotonic() - began) * MS_PER_S))
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception as error:
            _record(error, request_id, begun)
            if not begun:
                await _answer(error, send_named)


def _request_id(scope: Scope) -> str:
    offered = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return offered if SANE_REQUEST_ID.fullmatch(offered) else f"req_{uuid.uuid4().hex}"


def _record(error: Exception, request_id: str, begun: bool) -> None:
    """Log a fault of ours with its traceback, and any error that cuts a response short."""
    when = "after its response had begun" if begun else "before its response"
    if isinstance(error, InternalError) or not isinstance(error, MlxdError):
        log.error("Request %s failed %s", request_id, when, exc_info=error)
    elif begun and not isinstance(error, ClientDisconnected):
        log.warning("Request %s failed %s: %s", request_id, when, error.message)


async def _answer(error: Exception, send: Send) -> None:
    status, headers, body = render(error)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _of_starlette(error: HTTPException, request: Request) -> MlxdError:
    """The router's own refusals as errors of the tree."""
    path = excerpt(request.scope["path"], 100)
    match error.status_code:
        case 404:
            return RouteNotFound(f"There is no endpoint {path}.")
        case 405:
            return MethodNotAllowed(f"{path} does not answer to {excerpt(request.method, 20)}.")
        case status if status < 500:
            return InvalidRequest(error.detail)
        case _:
            return InternalError(error.detail)


async def answer_starlette(request: Request, error: Exception) -> Response:
    """Answer an `HTTPException` of the router; its headers (`Allow`) are kept."""
    assert isinstance(error, HTTPException)
    status, headers, body = render(_of_starlette(error, request))
    response = Response(body, status, headers=error.headers)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response


EXCEPTION_HANDLERS: dict[object, ExceptionHandler] = {HTTPException: answer_starlette}
