"""What can go wrong, what a client is told about it, and the bytes that tell it.

    MlxdError
      + InvalidRequest        400  the body, a parameter or a value is wrong
      + InvalidApiKey         401  a key is needed, and none that is known was presented
      + AdminOnly             403  administration, and not by an administrator
      + HostNotAllowed        403  the name asked for is none of the service's
      + OriginNotAllowed      403  a page of a site that is not allowed sends it
      + ModelNotFound         404  no such model is configured
      + RouteNotFound         404  no such path
      + MethodNotAllowed      405  the path is known, the method is not for it
      + BodyTimeout           408  the body came too slowly
      + BodyTooLarge          413  the body is larger than the limit
      + ModelBusy             409  the model cannot be unloaded while it has requests
      + UnsupportedMediaType  415  the body is not declared as JSON
      + HeadersTooLarge       431  the headers are larger than the limit
      + ClientDisconnected    499  nobody is left to answer; for the log
      + Unavailable
      |   + Overloaded        429  as many requests wait as may wait
      |   + RateLimited       429  this API key has used what it may
      |   + WorkerUnavailable 503  the worker loads, drains, has failed, or is busy for too long
      |       + InsufficientMemory  503  others hold the memory that is needed
      + ModelLoadFailed       503  the model is configured, and cannot be loaded
      + InternalError         500  a fault of the service itself
      + GenerationFailed      500  a fault while this request's text was made
      + WorkerCrashed         500  this request ended the worker, and would again

Any exception that is no `MlxdError` is told as `InternalError`, with nothing of
its own text. Messages may quote the client: they are cut and escaped here, once.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

Headers = list[tuple[bytes, bytes]]

TEXT_LIMIT_CHARS = 300
RETRY_AFTER_S = 2


def excerpt(text: str, limit: int = TEXT_LIMIT_CHARS) -> str:
    """`text` on one line of at most `limit` characters, whatever is not printable escaped."""
    shown = "".join(map(_escape, text[: limit + 1]))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escape(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong. `param` is the path of the parameter at fault: `messages[0].role`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"error": {...}}`, as OpenAI's clients read it."""

    error: ErrorDetail


class MlxdError(Exception):
    """The root. `message`, `param` and `code` are as the client will read them."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.message = excerpt(message)
        self.param = None if param is None else excerpt(param)
        self.code = response_for(self).code if code is None else code
        self.headers: Headers = []
        super().__init__(self.message)


class InvalidRequest(MlxdError):
    """The request cannot be understood or served as it is; sending it again changes nothing."""


class InvalidApiKey(MlxdError):
    """The request brings no API key that is known."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = [(b"www-authenticate", b"Bearer")]


class AdminOnly(MlxdError):
    """Administration needs an administrator's API key; without keys, this machine."""


class HostNotAllowed(MlxdError):
    """The request's Host is none of the service's names."""


class OriginNotAllowed(MlxdError):
    """The request comes from a web page of a site that is not allowed."""


class ModelNotFound(MlxdError):
    """The model asked for is not configured."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{excerpt(model, 100)}` does not exist.", param="model")


class RouteNotFound(MlxdError):
    """No endpoint has this path."""


class MethodNotAllowed(MlxdError):
    """The endpoint does not answer to this method."""


class BodyTimeout(MlxdError):
    """The request's body was not complete in time."""


class BodyTooLarge(MlxdError):
    """The request's body is larger than the service accepts."""


class UnsupportedMediaType(MlxdError):
    """The request's body is not declared as JSON."""


class HeadersTooLarge(MlxdError):
    """The request's headers are larger than the service accepts."""


class ClientDisconnected(MlxdError):
    """The client left before its answer."""


class Unavailable(MlxdError):
    """Not now: the same request may succeed after `retry_after_s`."""

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: int = RETRY_AFTER_S
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """The queue is full."""


class RateLimited(Unavailable):
    """The API key has as many requests running as it may, or no tokens left."""

    def __init__(self, message: str, *, retry_after_s: int, headers: Headers) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = headers


class WorkerUnavailable(Unavailable):
    """No worker can take the request: `code` is loading, restarting, draining, failed or
    queue_timeout."""


class InsufficientMemory(WorkerUnavailable):
    """Other models and requests hold the memory that this one needs."""


class ModelLoadFailed(MlxdError):
    """The model asked for is configured, but cannot be loaded."""


class ModelBusy(MlxdError):
    """The model has requests, so it cannot be unloaded."""


class InternalError(MlxdError):
    """A fault of the service."""


class GenerationFailed(MlxdError):
    """A fault of this one request while it was generated."""


class WorkerCrashed(MlxdError):
    """This request ends every worker that takes it."""


class ErrorResponse(NamedTuple):
    """How a class of error is told. `repeats`: trying the same request again would fail again."""

    status: int
    type: str
    code: str | None
    repeats: bool = False


INVALID = "invalid_request_error"
SERVER = "server_error"

ERROR_RESPONSES: dict[type[MlxdError], ErrorResponse] = {
    InvalidRequest: ErrorResponse(400, INVALID, None),
    InvalidApiKey: ErrorResponse(401, INVALID, "invalid_api_key"),
    AdminOnly: ErrorResponse(403, INVALID, "admin_only"),
    HostNotAllowed: ErrorResponse(403, INVALID, "host_not_allowed"),
    OriginNotAllowed: ErrorResponse(403, INVALID, "origin_not_allowed"),
    ModelNotFound: ErrorResponse(404, INVALID, "model_not_found"),
    RouteNotFound: ErrorResponse(404, INVALID, "not_found"),
    MethodNotAllowed: ErrorResponse(405, INVALID, "method_not_allowed"),
    BodyTimeout: ErrorResponse(408, INVALID, "body_timeout"),
    BodyTooLarge: ErrorResponse(413, INVALID, "body_too_large"),
    ModelBusy: ErrorResponse(409, INVALID, "model_busy", repeats=True),
    UnsupportedMediaType: ErrorResponse(415, INVALID, "unsupported_media_type"),
    HeadersTooLarge: ErrorResponse(431, INVALID, "headers_too_large"),
    ClientDisconnected: ErrorResponse(499, INVALID, "client_disconnected"),
    Overloaded: ErrorResponse(429, "rate_limit_error", "overloaded"),
    RateLimited: ErrorResponse(429, "rate_limit_error", "rate_limit_exceeded"),
    WorkerUnavailable: ErrorResponse(503, SERVER, "unavailable"),
    InsufficientMemory: ErrorResponse(503, SERVER, "insufficient_memory"),
    ModelLoadFailed: ErrorResponse(503, SERVER, "model_load_failed", repeats=True),
    InternalError: ErrorResponse(500, SERVER, "internal_error"),
    GenerationFailed: ErrorResponse(500, SERVER, "generation_failed", repeats=True),
    WorkerCrashed: ErrorResponse(500, SERVER, "worker_crashed", repeats=True),
}


def response_for(error: MlxdError) -> ErrorResponse:
    """The row of the table for `error`, or for the nearest class above it."""
    return next(
        (ERROR_RESPONSES[kind] for kind in type(error).__mro__ if kind in ERROR_RESPONSES),
        ERROR_RESPONSES[InternalError],
    )


class Rendered(NamedTuple):
    """An error as an HTTP response."""

    status: int
    headers: Headers
    body: bytes


def render(error: BaseException) -> Rendered:
    """The response for `error`; one that is no `MlxdError` is a bare 500."""
    told = _told(error)
    answer = response_for(told)
    body = error_event(told)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *told.headers,
    ]
    if isinstance(told, Unavailable):
        headers.append((b"retry-after", str(told.retry_after_s).encode()))
    if answer.repeats:
        headers.append((b"x-should-retry", b"false"))
    return Rendered(answer.status, headers, body)


def error_event(error: BaseException) -> bytes:
    """`{"error": {...}}`: a response's body, and what follows `data: ` in a stream that began."""
    told = _told(error)
    detail = ErrorDetail(told.message, response_for(told).type, told.param, told.code)
    return msgspec.json.encode(ErrorBody(detail))


def _told(error: BaseException) -> MlxdError:
    if isinstance(error, MlxdError):
        return error
    return InternalError("The server had an error while it processed your request.")
