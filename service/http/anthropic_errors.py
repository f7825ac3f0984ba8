"""Errors in the shape that Anthropic's clients read, where such a client asks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from service.errors import (
    AdminOnly,
    BodyMemoryFull,
    BodyTimeout,
    BodyTooLarge,
    HostNotAllowed,
    InvalidApiKey,
    MlxdError,
    ModelBusy,
    ModelLoadFailed,
    ModelNotFound,
    OriginNotAllowed,
    Overloaded,
    RateLimited,
    RenderedError,
    RouteNotFound,
    StoredObjectNotFound,
    StoreUnavailable,
    WorkerUnavailable,
    render_error,
    response_for,
    to_mlxd_error,
)

VERSION_HEADER = b"anthropic-version"
REQUEST_ID_HEADER = "request-id"
CONTENT_LENGTH = b"content-length"
# All requests to paths of these, and those to the others that have a version.
MESSAGES_PATHS = ("/v1/messages", "/messages")
SHARED_PATHS = ("/v1/models", "/models")

INVALID, API = "invalid_request_error", "api_error"
TYPES: dict[type[MlxdError], str] = {
    InvalidApiKey: "authentication_error",
    AdminOnly: "permission_error",
    HostNotAllowed: "permission_error",
    OriginNotAllowed: "permission_error",
    ModelNotFound: "not_found_error",
    RouteNotFound: "not_found_error",
    StoredObjectNotFound: "not_found_error",
    BodyTimeout: "timeout_error",
    BodyTooLarge: "request_too_large",
    ModelBusy: "conflict_error",
    Overloaded: "rate_limit_error",
    RateLimited: "rate_limit_error",
    BodyMemoryFull: "overloaded_error",
    StoreUnavailable: "overloaded_error",
    WorkerUnavailable: "overloaded_error",
    ModelLoadFailed: "overloaded_error",
}

RawHeaders = Iterable[tuple[bytes, bytes]]


class AnthropicErrorDetail(msgspec.Struct, frozen=True):
    """The details of an error; the message names the parameter."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, kw_only=True):
    """`{"type": "error", "error": {...}}`, the shape that Anthropic's clients parse."""

    type: str = "error"
    error: AnthropicErrorDetail
    request_id: str


def is_anthropic(path: str, headers: RawHeaders) -> bool:
    """Whether a request to `path` with these headers is one of Anthropic's API."""
    if is_below(path, MESSAGES_PATHS):
        return True
    return is_below(path, SHARED_PATHS) and any(
        name.lower() == VERSION_HEADER for name, _ in headers
    )


def is_below(path: str, roots: Iterable[str]) -> bool:
    """Whether `path` is one of `roots` or begins with one."""
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def type_for(error: MlxdError) -> str:
    """Anthropic's type of the error."""
    named = next((TYPES[kind] for kind in type(error).__mro__ if kind in TYPES), None)
    return named or (INVALID if response_for(error).status < 500 else API)


def encode_anthropic_error(error: BaseException, request_id: str) -> bytes:
    """The body of a response, or the data of an event in a stream."""
    known = to_mlxd_error(error)
    message = known.message
    if known.param and known.param not in message:
        message = f"`{known.param}`: {message}"
    detail = AnthropicErrorDetail(type_for(known), message)
    return msgspec.json.encode(AnthropicError(error=detail, request_id=request_id))


def render_for(
    error: BaseException, path: str, headers: RawHeaders, request_id: str
) -> RenderedError:
    """The response for `error`, in the shape that the client of this request reads."""
    rendered = render_error(error)
    if not is_anthropic(path, headers):
        return rendered
    body = encode_anthropic_error(error, request_id)
    kept = [pair for pair in rendered.headers if pair[0] != CONTENT_LENGTH]
    return RenderedError(rendered.status, [*kept, (CONTENT_LENGTH, str(len(body)).encode())], body)
