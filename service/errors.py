"""The tree of errors, and the HTTP response for each.

    MlxdError
      + InvalidRequest        400  the body, a parameter or a value is invalid
      |   + ContextTooLong    400  the prompt and its answer exceed the context or the memory
      + InvalidApiKey         401  a key is required, and no known key was presented
      + AdminOnly             403  an administration request without an administrator's key
      + HostNotAllowed        403  the Host header is not one of the service's names
      + OriginNotAllowed      403  a web page of a site that is not allowed sent the request
      + ModelNotFound         404  the model is not configured
      + RouteNotFound         404  the path does not exist
      + StoredObjectNotFound  404  no response, conversation or item that the caller owns has the id
      + MethodNotAllowed      405  the path does not accept the method
      + BodyTimeout           408  the body arrived too slowly
      + BodyTooLarge          413  the body is larger than the limit
      + ModelBusy             409  the model has requests and cannot be unloaded
      + UnsupportedMediaType  415  the body is not declared as JSON
      + UnsupportedContentCoding  415  the body is compressed
      + HeadersTooLarge       431  the headers are larger than the limit
      + ClientDisconnected    499  the client disconnected; only logged
      + Unavailable
      |   + Overloaded        429  the waiting queue is full
      |   + RateLimited       429  the API key has reached its limits
      |   + BodyMemoryFull    503  all request bodies together use more memory than they may
      |   + StoreUnavailable  503  the file of the response store cannot be read or written
      |   + WorkerUnavailable 503  the worker is loading, draining, failed or busy for too long
      |       + InsufficientMemory  503  other models and requests hold the memory
      + MethodNotSupported    501  the method is not in upper case
      + TransferCodingNotSupported  501  the body has another transfer coding than chunked
      + HttpVersionNotSupported  505  the request has another version than HTTP/1.0 and 1.1
      + ModelLoadFailed       503  the model is configured but cannot be loaded
      + InternalError         500  an internal fault of the service
      + GenerationFailed      500  a fault while this request was generated
      + WorkerCrashed         500  this request crashes the worker

Any other exception is reported as an `InternalError` without its own text. Messages may
quote the client: they are truncated and escaped here, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

Headers = list[tuple[bytes, bytes]]

JSON_MEDIA_TYPE = "application/json"
RETRY_AFTER_HEADER = "retry-after"
SHOULD_RETRY_HEADER = "x-should-retry"
TEXT_LIMIT_CHARS = 300
RETRY_AFTER_S = 2


def excerpt(text: str, limit: int = TEXT_LIMIT_CHARS) -> str:
    """`text` on one line of at most `limit` characters, with unprintable characters escaped."""
    shown = "".join(map(_escape, text[: limit + 1]))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escape(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


class ErrorDetail(msgspec.Struct, frozen=True):
    """The details of an error. `param` is the path of the parameter: `messages[0].role`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"error": {...}}`, the shape that OpenAI's clients parse."""

    error: ErrorDetail


class MlxdError(Exception):
    """The root of the tree. The client gets `message`, `param` and `code` as they are here."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.message = excerpt(message)
        self.param = None if param is None else excerpt(param)
        self.code = response_for(self).code if code is None else code
        self.headers: Headers = []
        super().__init__(self.message)


ErrorT = TypeVar("ErrorT", bound=BaseException)


def copy_error(error: ErrorT) -> ErrorT:
    """The same error, to be raised by an object that keeps `error`.

    A raised exception refers to the frames that it leaves, with the request and its body. Kept by
    an object that these frames refer to, it would keep them until a garbage collection.
    """
    duplicate = type(error).__new__(type(error), *error.args)
    duplicate.__dict__.update(error.__dict__)
    return duplicate


@contextlib.contextmanager
def explained(explain: Callable[[MlxdError], MlxdError]) -> Iterator[None]:
    """Errors as `explain` has them.

    An exception that is its own cause, or that a frame of its traceback has in a variable, would
    keep the request and its body until a garbage collection.
    """
    try:
        yield
    except MlxdError as error:
        told = explain(error)
        try:
            if told is error:
                raise
            raise told from error
        finally:
            del told


class InvalidRequest(MlxdError):
    """The request is invalid or cannot be served as it is; a retry fails again."""


class ContextTooLong(InvalidRequest):
    """A prompt, and an answer of at least `answer_tokens`, exceed `limit_tokens`.

    The prompt may have more than `prompt_tokens` where it was refused before it was tokenized.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None,
        prompt_tokens: int,
        answer_tokens: int,
        limit_tokens: int,
    ) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.limit_tokens = limit_tokens


class InvalidApiKey(MlxdError):
    """The request has no valid API key."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = [(b"www-authenticate", b"Bearer")]


class AdminOnly(MlxdError):
    """Administration needs an administrator's API key; without keys, a local client."""


class HostNotAllowed(MlxdError):
    """The request's Host header is not one of the service's names."""


class OriginNotAllowed(MlxdError):
    """The request comes from a web page of a site that is not allowed."""


class ModelNotFound(MlxdError):
    """The requested model is not configured."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{excerpt(model, 100)}` does not exist.", param="model")


class RouteNotFound(MlxdError):
    """No endpoint has this path."""


class StoredObjectNotFound(MlxdError):
    """No response, conversation or item that the caller owns has this id."""

    def __init__(self, kind: str, id: str, reason: str = "") -> None:
        ending = f": {reason}." if reason else "."
        super().__init__(f"{kind.capitalize()} with id '{excerpt(id, 100)}' not found{ending}")


class MethodNotAllowed(MlxdError):
    """The endpoint does not accept this method."""


class MethodNotSupported(MlxdError):
    """The request's method is not in upper case: methods are case-sensitive."""


class BodyTimeout(MlxdError):
    """The request's body did not arrive in time."""


class BodyTooLarge(MlxdError):
    """The request's body is larger than the service accepts."""


class UnsupportedMediaType(MlxdError):
    """The request's body is not declared as JSON."""


class UnsupportedContentCoding(MlxdError):
    """The request's body is compressed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = [(b"accept-encoding", b"identity")]


class HeadersTooLarge(MlxdError):
    """The request's headers are larger than the service accepts."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = [(b"connection", b"close")]


class TransferCodingNotSupported(MlxdError):
    """The request's body has a transfer coding other than chunked."""


class HttpVersionNotSupported(MlxdError):
    """The request has another version than HTTP/1.1 and HTTP/1.0."""


class ClientDisconnected(MlxdError):
    """The client disconnected before the response was complete."""


class Unavailable(MlxdError):
    """The service cannot take the request now; it may succeed after `retry_after_s`."""

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: int = RETRY_AFTER_S
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """The waiting queue is full."""


class RateLimited(Unavailable):
    """The API key has reached its limit of concurrent requests or of tokens."""

    def __init__(self, message: str, *, retry_after_s: int, headers: Headers) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = headers


class BodyMemoryFull(Unavailable):
    """All request bodies together need more memory than they may use."""


class StoreUnavailable(Unavailable):
    """The file of the response store cannot be read or written now."""


class WorkerUnavailable(Unavailable):
    """No worker can take the request: `code` is loading, restarting, draining, failed or
    queue_timeout."""


class InsufficientMemory(WorkerUnavailable):
    """Other models and requests hold the memory that this one needs."""


class ModelLoadFailed(MlxdError):
    """The requested model is configured but cannot be loaded."""


class ModelBusy(MlxdError):
    """The model has requests and cannot be unloaded."""


class InternalError(MlxdError):
    """An internal fault of the service."""


class GenerationFailed(MlxdError):
    """A fault while this request was generated."""


class WorkerCrashed(MlxdError):
    """This request crashes every worker that runs it."""


class ErrorResponse(NamedTuple):
    """The status, type and default code of a class of errors.

    `is_permanent`: a retry of the same request fails again.
    """

    status: int
    type: str
    code: str | None
    is_permanent: bool = False


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
    StoredObjectNotFound: ErrorResponse(404, INVALID, "not_found"),
    MethodNotAllowed: ErrorResponse(405, INVALID, "method_not_allowed"),
    BodyTimeout: ErrorResponse(408, INVALID, "body_timeout"),
    BodyTooLarge: ErrorResponse(413, INVALID, "body_too_large"),
    ModelBusy: ErrorResponse(409, INVALID, "model_busy", is_permanent=True),
    UnsupportedMediaType: ErrorResponse(415, INVALID, "unsupported_media_type"),
    UnsupportedContentCoding: ErrorResponse(415, INVALID, "unsupported_content_encoding"),
    MethodNotSupported: ErrorResponse(501, INVALID, "unsupported_method"),
    TransferCodingNotSupported: ErrorResponse(501, INVALID, "unsupported_transfer_encoding"),
    HttpVersionNotSupported: ErrorResponse(505, INVALID, "unsupported_http_version"),
    HeadersTooLarge: ErrorResponse(431, INVALID, "headers_too_large"),
    ClientDisconnected: ErrorResponse(499, INVALID, "client_disconnected"),
    Overloaded: ErrorResponse(429, "rate_limit_error", "overloaded"),
    RateLimited: ErrorResponse(429, "rate_limit_error", "rate_limit_exceeded"),
    BodyMemoryFull: ErrorResponse(503, SERVER, "body_memory_full"),
    StoreUnavailable: ErrorResponse(503, SERVER, "response_store_unavailable"),
    WorkerUnavailable: ErrorResponse(503, SERVER, "unavailable"),
    InsufficientMemory: ErrorResponse(503, SERVER, "insufficient_memory"),
    ModelLoadFailed: ErrorResponse(503, SERVER, "model_load_failed", is_permanent=True),
    InternalError: ErrorResponse(500, SERVER, "internal_error"),
    GenerationFailed: ErrorResponse(500, SERVER, "generation_failed", is_permanent=True),
    WorkerCrashed: ErrorResponse(500, SERVER, "worker_crashed", is_permanent=True),
}


def response_for(error: MlxdError) -> ErrorResponse:
    """The row of the table for the class of `error`, or for its nearest base class."""
    return next(
        (ERROR_RESPONSES[kind] for kind in type(error).__mro__ if kind in ERROR_RESPONSES),
        ERROR_RESPONSES[InternalError],
    )


class RenderedError(NamedTuple):
    """An error as an HTTP response."""

    status: int
    headers: Headers
    body: bytes


def render_error(error: BaseException) -> RenderedError:
    """The response for `error`; an exception other than `MlxdError` gives a bare 500."""
    known = to_mlxd_error(error)
    response = response_for(known)
    body = encode_error(known)
    headers = [
        (b"content-type", JSON_MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *known.headers,
    ]
    if isinstance(known, Unavailable):
        headers.append((RETRY_AFTER_HEADER.encode(), str(known.retry_after_s).encode()))
    if response.is_permanent:
        headers.append((SHOULD_RETRY_HEADER.encode(), b"false"))
    return RenderedError(response.status, headers, body)


def encode_error(error: BaseException) -> bytes:
    """`{"error": {...}}`: the body of a response, or the data of an event in a stream."""
    known = to_mlxd_error(error)
    detail = ErrorDetail(
        message=known.message,
        type=response_for(known).type,
        param=known.param,
        code=known.code,
    )
    return msgspec.json.encode(ErrorBody(detail))


def to_mlxd_error(error: BaseException) -> MlxdError:
    """The error itself, or an `InternalError` without the text of another exception."""
    if isinstance(error, MlxdError):
        return error
    return InternalError("The server had an error while processing the request.")
