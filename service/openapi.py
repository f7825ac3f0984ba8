"""GET /openapi.json: the API described from the structs that implement it."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from service.errors import (
    ANSWERS,
    AdminOnly,
    BodyTimeout,
    BodyTooLarge,
    GenerationFailed,
    HeadersTooLarge,
    HostNotAllowed,
    InsufficientMemory,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    MlxdError,
    ModelBusy,
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
from service.schema.error import ErrorBody
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


def describe_api(version: str) -> Json:
    """The API as an OpenAPI 3.1 document."""
    _, components = msgspec.json.schema_components(
        SCHEMAS, ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlxd",
            "version": version,
            "description": "OpenAI's API for text, served from Apple MLX.",
        },
        "paths": _paths(),
        "components": {"schemas": components, "securitySchemes": {"apiKey": BEARER}},
        # Keys are needed where keys are configured.
        "security": [{"apiKey": []}, {}],
    }


def _paths() -> Json:
    return {
        "/v1/chat/completions": {
            "post": _generation(
                "createChatCompletion",
                "Answer a conversation.",
                ChatRequest,
                ChatCompletion,
                ChatCompletionChunk,
            )
        },
        "/v1/completions": {
            "post": _generation(
                "createCompletion", "Continue a text.", CompletionRequest, Completion, Completion
            )
        },
        "/v1/capabilities": {
            "get": _reading(
                "listCapabilities",
                "Tell what each model does with each parameter.",
                _json(CapabilitiesList),
            )
        },
        "/v1/models": {"get": _reading("listModels", "List the models.", _json(ModelList))},
        "/v1/models/{model}": {"get": _model()},
        "/admin/models/{model}/load": {
            "post": _order(
                "loadModel",
                "Load a model.",
                OrderRequest,
                (InsufficientMemory, ModelLoadFailed),
            )
        },
        "/admin/models/{model}/unload": {
            "post": _order(
                "unloadModel", "Unload a model that has no requests.", OrderRequest, (ModelBusy,)
            )
        },
        "/admin/models/{model}/pin": {
            "post": _order("pinModel", "Keep a model loaded, or no more.", PinRequest, ())
        },
        "/health": {"get": _health()},
        "/status": {"get": _status()},
        "/metrics": {"get": _reading("readMetrics", "Read the metrics of Prometheus.", METRICS)},
        "/openapi.json": {
            "get": _reading("describeApi", "Describe the API.", _content({"type": "object"}))
        },
    }


def _generation(name: str, summary: str, request: Struct, answer: Struct, event: Struct) -> Json:
    stream = {
        # Before 3.2 of OpenAPI, the schema of such a stream is that of each event.
        "schema": EVENT,
        "description": f"With `stream`: each event's data is one {event.__name__}, or an ErrorBody "
        "after which the stream ends; the last event's data is `[DONE]`.",
        "x-event-schema": _ref(event),
    }
    answered = {**_json(answer), "text/event-stream": stream}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": _response("The answer.", answered), **_refusals(GENERATION)},
    }


def _reading(name: str, summary: str, content: Json, errors: Errors = ANYWHERE) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("The answer.", content), **_refusals(errors)},
    }


def _order(name: str, summary: str, request: Struct, errors: Errors) -> Json:
    body = {"required": False, "content": _json(request)}
    answered = _reading(name, summary, _json(Model), (*ADMIN, *errors))
    return {**answered, "parameters": [MODEL], "requestBody": body}


def _model() -> Json:
    reading = _reading(
        "retrieveModel", "Describe one model.", _json(Model), (ModelNotFound, *ANYWHERE)
    )
    return {**reading, "parameters": [MODEL]}


def _status() -> Json:
    parameter = {
        "name": "after",
        "in": "query",
        "description": "Unix time in whole seconds: only the seconds after it are told.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    }
    reading = _reading(
        "readStatus",
        "Tell what the service does and did.",
        _json(ServiceStatus),
        (InvalidRequest, *ANYWHERE),
    )
    return {**reading, "parameters": [parameter]}


def _health() -> Json:
    reading = _reading("checkHealth", "Tell whether tokens move.", _json(Health), OPEN)
    reading["security"] = []
    reading["responses"]["503"] = _response("Not healthy; `status` says why.", _json(Health))
    return reading


def _refusals(errors: Errors) -> Json:
    """One response a status, told by the docstrings of the errors that have it."""
    refusals: Json = {}
    for error in sorted(errors, key=lambda kind: ANSWERS[kind].status):
        status = str(ANSWERS[error].status)
        told = (inspect.getdoc(error) or "").partition("\n")[0]
        if status in refusals:
            refusals[status]["description"] += f" {told}"
        else:
            refusals[status] = _response(told, _json(ErrorBody))
        if issubclass(error, Unavailable):
            refusals[status]["headers"]["Retry-After"] = RETRY_AFTER
    return refusals


def _response(description: str, content: Json) -> Json:
    headers = {"x-request-id": REQUEST_ID}
    return {"description": description, "headers": headers, "content": content}


def _json(struct: Struct) -> Json:
    return _content(_ref(struct))


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(struct: Struct) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
