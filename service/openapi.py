"""GET /openapi.json: the API's description, made from the route table and the schema structs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from inspect import getdoc
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import inspect
from starlette.requests import Request

from service.errors import (
    ERROR_RESPONSES,
    AdminOnly,
    BodyMemoryFull,
    BodyTimeout,
    BodyTooLarge,
    ErrorBody,
    GenerationFailed,
    HeadersTooLarge,
    HostNotAllowed,
    HttpVersionNotSupported,
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
    TransferCodingNotSupported,
    Unavailable,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.schema.capabilities import CapabilitiesList
from service.schema.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from service.schema.completions import Completion, CompletionRequest
from service.schema.health import Health, HealthSummary
from service.schema.messages import Conversation
from service.schema.models import Model, ModelList, OrderRequest, PinRequest
from service.schema.status import ServiceStatus
from service.schema.tokenization import (
    ApplyTemplateRequest,
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    RenderedTemplate,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)

Json = dict[str, Any]
Struct = type[msgspec.Struct]
Errors = tuple[type[MlxdError], ...]
RouteKind = Literal["generation", "tokenization", "other"]

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
    TokenizeRequest,
    TokenizeResponse,
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    ApplyTemplateRequest,
    RenderedTemplate,
    TokenizerInfo,
    Health,
    HealthSummary,
    ServiceStatus,
    ErrorBody,
)
UNAUTHENTICATED_ERRORS: Errors = (
    InvalidRequest,
    HostNotAllowed,
    OriginNotAllowed,
    HeadersTooLarge,
    InternalError,
    HttpVersionNotSupported,
)
COMMON_ERRORS: Errors = (InvalidApiKey, *UNAUTHENTICATED_ERRORS)
BODY_ERRORS: Errors = (
    BodyMemoryFull,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    UnsupportedContentCoding,
    TransferCodingNotSupported,
)
GENERATION_ERRORS: Errors = (
    ModelNotFound,
    *BODY_ERRORS,
    Overloaded,
    RateLimited,
    GenerationFailed,
    WorkerCrashed,
    WorkerUnavailable,
    InsufficientMemory,
    ModelLoadFailed,
    *COMMON_ERRORS,
)
TOKENIZATION_ERRORS: Errors = tuple(
    error for error in GENERATION_ERRORS if error is not GenerationFailed
)
ADMIN_ERRORS: Errors = (
    ModelNotFound,
    AdminOnly,
    *BODY_ERRORS,
    WorkerUnavailable,
    *COMMON_ERRORS,
)

DESCRIPTION_PATH = "/openapi.json"
REQUEST_ID = {
    "description": "The request's id: the one that the client sent, if it is valid.",
    "schema": {"type": "string"},
}
MODEL_PARAMETER = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The model's id, which may hold slashes, or one of its aliases.",
    "schema": {"type": "string"},
}
SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer"},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
API_TEXT = (
    "OpenAI's API for text, served from Apple MLX. A path takes GET (and with it HEAD) or POST, as "
    "listed; another method gets 405 with `Allow`, and another path 404, whatever the type of the "
    "body. Every POST is declared as `application/json`, also one without a body, and has no "
    "`Content-Encoding` but `identity`; others get 415."
)
CEILING_TEXT = (
    "The answer has at most `max_tokens` tokens, fewer where the context or the memory holds no "
    "more: `finish_reason` is then `length`, too. A prompt that leaves no room for one token gets "
    "400 `context_length_exceeded`."
)
STRICT_TEXT = (
    "A request whose prompt and `max_tokens` are more than the context or the memory holds gets "
    "400 `context_length_exceeded`."
)
METRICS_CONTENT = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("text/plain", "application/openmetrics-text")
}
EVENT_SCHEMA = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
RETRY_AFTER = {
    "description": "Seconds to wait before the next try.",
    "schema": {"type": "integer", "minimum": 0},
}


class Operation(NamedTuple):
    """One row of the route table. One without a `description` is not in the document.

    `aliases` are other paths of the same route. Its `kind` decides which limits of keys apply: a
    generation needs a place and tokens, a tokenization needs a place.
    """

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[[Request], Awaitable[object]]
    description: Json | None = None
    aliases: tuple[str, ...] = ()
    kind: RouteKind = "other"

    @property
    def is_generation(self) -> bool:
        """Whether the route generates text, and so spends tokens."""
        return self.kind == "generation"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the route takes."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths of the route."""
        return self.path, *self.aliases


def describe_api(version: str, operations: Iterable[Operation]) -> Json:
    """The API as an OpenAPI 3.1 document."""
    _, components = msgspec.json.schema_components(
        SCHEMAS, ref_template="#/components/schemas/{name}"
    )
    for name in struct_names(inspect.type_info(Conversation)):
        # Unknown keys of messages are ignored (setting `unknown_fields`).
        components[name].pop("additionalProperties", None)
    paths: Json = {}
    for operation in operations:
        if operation.description is not None:
            path = paths.setdefault(operation.path, {})
            path[operation.method.lower()] = {
                **operation.description,
                **describe_in_words(operation),
            }
    document = describe_read("describeApi", "Describe the API.", _content({"type": "object"}))
    paths[DESCRIPTION_PATH] = {"get": document}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlxd",
            "version": version,
            "description": API_TEXT,
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SECURITY_SCHEMES},
        # A key is required only if keys are configured.
        "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
    }


def struct_names(shape: inspect.Type) -> Iterator[str]:
    """The names of the structs in a type, at any depth."""
    match shape:
        case inspect.StructType():
            yield shape.cls.__name__
            for field in shape.fields:
                yield from struct_names(field.type)
        case inspect.ListType():
            yield from struct_names(shape.item_type)
        case inspect.UnionType():
            for member in shape.types:
                yield from struct_names(member)


def describe_in_words(operation: Operation) -> Json:
    texts = [text for text in ((operation.description or {}).get("description"),) if text]
    if operation.aliases:
        texts.append(f"Also served as {', '.join(operation.aliases)}.")
    return {"description": " ".join(texts)} if texts else {}


def describe_generation(
    name: str,
    summary: str,
    *,
    request: Struct,
    response: Struct,
    chunk: Struct,
    strict_max_tokens: bool = False,
) -> Json:
    stream = {
        # Before OpenAPI 3.2, the schema of an event stream is the schema of one event.
        "schema": EVENT_SCHEMA,
        "description": f"With `stream`: each event's data is one {chunk.__name__}, or an ErrorBody "
        "after which the stream ends; the last event's data is `[DONE]`.",
        "x-event-schema": _ref(chunk),
    }
    content = {**json_content(response), "text/event-stream": stream}
    return {
        "operationId": name,
        "summary": summary,
        "description": STRICT_TEXT if strict_max_tokens else CEILING_TEXT,
        "requestBody": {"required": True, "content": json_content(request)},
        "responses": {
            "200": _response("Success.", content),
            **_error_responses(GENERATION_ERRORS),
        },
    }


def describe_tokenization(
    name: str, summary: str, *, request: Struct, responses: Sequence[Struct]
) -> Json:
    """An operation of the tokenizer; the response is one of `responses`."""
    refs = [_ref(struct) for struct in responses]
    content = _content(refs[0] if len(refs) == 1 else {"anyOf": refs})
    operation = describe_read(name, summary, content, errors=TOKENIZATION_ERRORS)
    return {**operation, "requestBody": {"required": True, "content": json_content(request)}}


def describe_tokenizer_info() -> Json:
    parameter = {
        "name": "model",
        "in": "query",
        "description": "The model's id or one of its aliases; without it the first model.",
        "schema": {"type": "string"},
    }
    errors = tuple(error for error in TOKENIZATION_ERRORS if error not in BODY_ERRORS)
    operation = describe_read(
        "readTokenizerInfo",
        "Read the configuration of a tokenizer.",
        json_content(TokenizerInfo),
        errors=errors,
    )
    return {**operation, "parameters": [parameter]}


def describe_read(
    name: str, summary: str, content: Json, *, errors: Errors = COMMON_ERRORS
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("Success.", content), **_error_responses(errors)},
    }


def describe_command(name: str, summary: str, request: Struct, *, errors: Errors) -> Json:
    body = {"required": False, "content": json_content(request)}
    operation = describe_read(name, summary, json_content(Model), errors=(*ADMIN_ERRORS, *errors))
    return {**operation, "parameters": [MODEL_PARAMETER], "requestBody": body}


def describe_model() -> Json:
    operation = describe_read(
        "retrieveModel",
        "Describe one model.",
        json_content(Model),
        errors=(ModelNotFound, *COMMON_ERRORS),
    )
    return {**operation, "parameters": [MODEL_PARAMETER]}


def describe_status() -> Json:
    parameter = {
        "name": "after",
        "in": "query",
        "description": "Unix time in whole seconds: only later seconds are returned.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    }
    operation = describe_read(
        "readStatus",
        "Read the state of the service, its last minutes and its latest requests.",
        json_content(ServiceStatus),
        errors=COMMON_ERRORS,
    )
    return {**operation, "parameters": [parameter]}


def describe_health() -> Json:
    content = _content({"anyOf": [_ref(Health), _ref(HealthSummary)]})
    operation = describe_read(
        "checkHealth",
        "Check whether the service can generate. Without a valid key, where keys are configured, "
        "and without keys from other machines, the answer is a HealthSummary. Texts with file "
        "paths are for administrators.",
        content,
        errors=UNAUTHENTICATED_ERRORS,
    )
    operation["security"] = [{"apiKey": []}, {}]
    operation["responses"]["503"] = _response("Not healthy; `status` gives the state.", content)
    return operation


def _error_responses(errors: Errors) -> Json:
    """One response per status, described by the docstrings of the errors with that status."""
    responses: Json = {}
    for error in sorted(errors, key=lambda kind: ERROR_RESPONSES[kind].status):
        status = str(ERROR_RESPONSES[error].status)
        summary = (getdoc(error) or "").partition("\n")[0]
        if status in responses:
            responses[status]["description"] += f" {summary}"
        else:
            responses[status] = _response(summary, json_content(ErrorBody))
        if issubclass(error, Unavailable):
            responses[status]["headers"]["Retry-After"] = RETRY_AFTER
    return responses


def _response(description: str, content: Json) -> Json:
    headers = {"x-request-id": REQUEST_ID}
    return {"description": description, "headers": headers, "content": content}


def json_content(struct: Struct) -> Json:
    return _content(_ref(struct))


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(struct: Struct) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
