"""GET /openapi.json: the API described from the route table and the structs that implement it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.requests import Request

from service.errors import (
    ERROR_RESPONSES,
    AdminOnly,
    BodyTimeout,
    BodyTooLarge,
    ErrorBody,
    GenerationFailed,
    HeadersTooLarge,
    HostNotAllowed,
    InsufficientMemory,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    MlxdError,
    ModelLoadFailed,
    ModelNotFound,
    OriginNotAllowed,
    Overloaded,
    RateLimited,
    Unavailable,
    UnsupportedMediaType,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.schema.capabilities import CapabilitiesList
from service.schema.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from service.schema.completions import Completion, CompletionRequest
from service.schema.health import Health
from service.schema.models import Model, ModelList, OrderRequest, PinRequest
from service.schema.status import ServiceStatus

Json = dict[str, Any]
Struct = type[msgspec.Struct]
Errors = tuple[type[MlxdError], ...]

SCHEMAS: tuple[Struct, ...] = (
    ChatRequest,
    ChatCompletion,
    ChatCompletionChunk,
    CompletionRequest,
    Completion,
    Model,
    ModelList,
    CapabilitiesList,
    OrderRequest,
    PinRequest,
    Health,
    ServiceStatus,
    ErrorBody,
)
OPEN: Errors = (HostNotAllowed, OriginNotAllowed, HeadersTooLarge, InternalError)
ANYWHERE: Errors = (InvalidApiKey, *OPEN)
GENERATION: Errors = (
    InvalidRequest,
    ModelNotFound,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    Overloaded,
    RateLimited,
    GenerationFailed,
    WorkerCrashed,
    WorkerUnavailable,
    InsufficientMemory,
    ModelLoadFailed,
    *ANYWHERE,
)
ADMIN: Errors = (
    InvalidRequest,
    ModelNotFound,
    AdminOnly,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    WorkerUnavailable,
    *ANYWHERE,
)

DESCRIPTION_PATH = "/openapi.json"
REQUEST_ID = {
    "description": "The request's id: the client's own where it sent a sane one.",
    "schema": {"type": "string"},
}
MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The model's id, which may hold slashes, or one of its aliases.",
    "schema": {"type": "string"},
}
BEARER = {"type": "http", "scheme": "bearer"}
METRICS = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("text/plain", "application/openmetrics-text")
}
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "schema": {"type": "integer", "minimum": 0},
}


class Operation(NamedTuple):
    """One row of the route table; `description` None leaves it out of the document."""

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[[Request], Awaitable[object]]
    description: Json | None = None


def describe_api(version: str, operations: Iterable[Operation]) -> Json:
    """The API as an OpenAPI 3.1 document."""
    _, components = msgspec.json.schema_components(
        SCHEMAS, ref_template="#/components/schemas/{name}"
    )
    paths: Json = {}
    for operation in operations:
        if operation.description is not None:
            path = paths.setdefault(operation.path, {})
            path[operation.method.lower()] = operation.description
    own = describe_reading("describeApi", "Describe the API.", _content({"type": "object"}))
    paths[DESCRIPTION_PATH] = {"get": own}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlxd",
            "version": version,
            "description": "OpenAI's API for text, served from Apple MLX.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"apiKey": BEARER}},
        # Keys are needed where keys are configured.
        "security": [{"apiKey": []}, {}],
    }


def describe_generation(
    name: str, summary: str, request: Struct, answer: Struct, event: Struct
) -> Json:
    stream = {
        # Before 3.2 of OpenAPI, the schema of such a stream is that of each event.
        "schema": EVENT,
        "description": f"With `stream`: each event's data is one {event.__name__}, or an ErrorBody "
        "after which the stream ends; the last event's data is `[DONE]`.",
        "x-event-schema": _ref(event),
    }
    answered = {**json_content(answer), "text/event-stream": stream}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": json_content(request)},
        "responses": {"200": _response("The answer.", answered), **_refusals(GENERATION)},
    }


def describe_reading(name: str, summary: str, content: Json, errors: Errors = ANYWHERE) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("The answer.", content), **_refusals(errors)},
    }


def describe_command(name: str, summary: str, request: Struct, errors: Errors) -> Json:
    body = {"required": False, "content": json_content(request)}
    answered = describe_reading(name, summary, json_content(Model), (*ADMIN, *errors))
    return {**answered, "parameters": [MODEL], "requestBody": body}


def describe_model() -> Json:
    reading = describe_reading(
        "retrieveModel", "Describe one model.", json_content(Model), (ModelNotFound, *ANYWHERE)
    )
    return {**reading, "parameters": [MODEL]}


def describe_status() -> Json:
    parameter = {
        "name": "after",
        "in": "query",
        "description": "Unix time in whole seconds: only the seconds after it are told.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    }
    reading = describe_reading(
        "readStatus",
        "Tell what the service does and did.",
        json_content(ServiceStatus),
        (InvalidRequest, *ANYWHERE),
    )
    return {**reading, "parameters": [parameter]}


def describe_health() -> Json:
    reading = describe_reading(
        "checkHealth", "Tell whether tokens move.", json_content(Health), OPEN
    )
    reading["security"] = []
    reading["responses"]["503"] = _response("Not healthy; `status` says why.", json_content(Health))
    return reading


def _refusals(errors: Errors) -> Json:
    """One response a status, told by the docstrings of the errors that have it."""
    refusals: Json = {}
    for error in sorted(errors, key=lambda kind: ERROR_RESPONSES[kind].status):
        status = str(ERROR_RESPONSES[error].status)
        told = (inspect.getdoc(error) or "").partition("\n")[0]
        if status in refusals:
            refusals[status]["description"] += f" {told}"
        else:
            refusals[status] = _response(told, json_content(ErrorBody))
        if issubclass(error, Unavailable):
            refusals[status]["headers"]["Retry-After"] = RETRY_AFTER
    return refusals


def _response(description: str, content: Json) -> Json:
    headers = {"x-request-id": REQUEST_ID}
    return {"description": description, "headers": headers, "content": content}


def json_content(struct: Struct) -> Json:
    return _content(_ref(struct))


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(struct: Struct) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
