"""Descriptions of operations for `/openapi.json`, by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getdoc

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
    StoredObjectNotFound,
    StoreUnavailable,
    TransferCodingNotSupported,
    Unavailable,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.openapi.operation import Json, Struct
from service.schema.health import Health, HealthSummary
from service.schema.models import AnthropicModel, AnthropicModelList, Model, ModelList
from service.schema.status import ServiceStatus
from service.schema.tokenization import TokenizerInfo

Errors = tuple[type[MlxdError], ...]

UNAUTHENTICATED_ERRORS: Errors = (
    InvalidRequest,
    HostNotAllowed,
    OriginNotAllowed,
    HeadersTooLarge,
    InternalError,
    HttpVersionNotSupported,
)
COMMON_ERRORS: Errors = (InvalidApiKey, *UNAUTHENTICATED_ERRORS)
# Of each POST, also of one that needs no body.
MEDIA_TYPE_ERRORS: Errors = (UnsupportedMediaType, UnsupportedContentCoding)
BODY_ERRORS: Errors = (
    BodyMemoryFull,
    BodyTimeout,
    BodyTooLarge,
    *MEDIA_TYPE_ERRORS,
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
CEILING_TEXT = (
    "The answer has at most `max_tokens` tokens, fewer where the context or the memory holds no "
    "more: `finish_reason` is then `length`, too. A prompt that leaves no room for one token gets "
    "400 `context_length_exceeded`."
)
MESSAGE_CEILING_TEXT = (
    "The answer has at most `max_tokens` tokens, fewer where the context or the memory holds no "
    "more: `stop_reason` is then `model_context_window_exceeded`. A prompt that leaves no room for "
    "one token gets 400."
)
STRICT_TEXT = (
    "A request whose prompt and `max_tokens` are more than the context or the memory holds gets "
    "400 `context_length_exceeded`."
)
POOLING_TEXT = (
    "A text that is longer than the model's context gets 400 `context_length_exceeded`: it is "
    "never cut. A model of another kind gets 400 `model_not_supported`."
)
DONE_TEXT = ", or an ErrorBody after which the stream ends; the last event's data is `[DONE]`."
METRICS_CONTENT = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("text/plain", "application/openmetrics-text")
}
EVENT_SCHEMA = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
NAMED_EVENT_SCHEMA = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
ANTHROPIC_PAGE_TEXT = (
    "With `anthropic-version` the list is a page, by `limit` (1 to 1,000), `after_id` or "
    "`before_id`, of models by `lifecycle`, comma-separated: all are active. Without, the query is "
    "not read."
)
RETRY_AFTER = {
    "description": "Seconds to wait before the next try.",
    "schema": {"type": "integer", "minimum": 0},
}


def describe_generation(
    name: str,
    summary: str,
    *,
    request: Struct,
    response: Struct,
    chunk: Struct,
    strict_max_tokens: bool = False,
    ending: str = DONE_TEXT,
) -> Json:
    """An operation that generates text; `ending` says how its streams end."""
    stream = {
        # Before OpenAPI 3.2, the schema of an event stream is the schema of one event.
        "schema": EVENT_SCHEMA,
        "description": f"With `stream`: each event's data is one {chunk.__name__}{ending}",
        "x-event-schema": _ref(chunk),
    }
    content = {**json_content(response), "text/event-stream": stream}
    operation = _describe_answers(name, summary, request, content)
    return {**operation, "description": STRICT_TEXT if strict_max_tokens else CEILING_TEXT}


def describe_messages(
    name: str,
    summary: str,
    *,
    request: Struct,
    response: Struct,
    error: Struct,
    strict_max_tokens: bool = False,
) -> Json:
    """An operation of Anthropic's API, whose errors and events have its shapes."""
    stream = {
        "schema": NAMED_EVENT_SCHEMA,
        "description": "With `stream`: named events from `message_start` to `message_stop`, or an "
        f"`error` with one {error.__name__}, after which the stream ends. `ping` has no meaning.",
    }
    content = {**json_content(response), "text/event-stream": stream}
    operation = _describe_answers(name, summary, request, content, error)
    return {**operation, "description": STRICT_TEXT if strict_max_tokens else MESSAGE_CEILING_TEXT}


def _describe_answers(
    name: str, summary: str, request: Struct, content: Json, error: Struct = ErrorBody
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": json_content(request)},
        "responses": {
            "200": _response("Success.", content),
            **_error_responses(GENERATION_ERRORS, error),
        },
    }


def describe_pooling(name: str, summary: str, *, request: Struct, response: Struct) -> Json:
    """An operation whose answer is vectors or scores."""
    operation = _describe_answers(name, summary, request, json_content(response))
    return {**operation, "description": POOLING_TEXT}


def describe_tokenization(
    name: str,
    summary: str,
    *,
    request: Struct,
    responses: Sequence[Struct],
    error: Struct = ErrorBody,
) -> Json:
    """An operation of the tokenizer; the response is one of `responses`."""
    refs = [_ref(struct) for struct in responses]
    content = content_of(refs[0] if len(refs) == 1 else {"anyOf": refs})
    operation = describe_read(name, summary, content, errors=TOKENIZATION_ERRORS, error=error)
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
    name: str,
    summary: str,
    content: Json,
    *,
    errors: Errors = COMMON_ERRORS,
    error: Struct = ErrorBody,
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("Success.", content), **_error_responses(errors, error)},
    }


def describe_command(name: str, summary: str, request: Struct, *, errors: Errors) -> Json:
    body = {"required": False, "content": json_content(request)}
    operation = describe_read(name, summary, json_content(Model), errors=(*ADMIN_ERRORS, *errors))
    return {**operation, "parameters": [MODEL_PARAMETER], "requestBody": body}


def describe_stored(
    name: str,
    summary: str,
    response: Struct,
    *,
    request: Struct | None = None,
    query: Sequence[Json] = (),
    needs_body: bool = True,
    errors: Errors = (),
) -> Json:
    """An operation on a stored object, which the path names; `query` are its parameters.

    `errors` are those beyond the errors of all these operations.
    """
    errors = (StoredObjectNotFound, StoreUnavailable, *errors, *COMMON_ERRORS)
    if request is not None:
        errors = (*errors, *BODY_ERRORS)
    operation = describe_read(name, summary, json_content(response), errors=errors)
    if query:
        operation["parameters"] = list(query)
    if request is not None:
        operation["requestBody"] = {"required": needs_body, "content": json_content(request)}
    return operation


def describe_model() -> Json:
    operation = describe_read(
        "retrieveModel",
        "Describe one model.",
        either_content(Model, AnthropicModel),
        errors=(ModelNotFound, *COMMON_ERRORS),
    )
    return {**operation, "parameters": [MODEL_PARAMETER]}


def describe_model_list() -> Json:
    content = either_content(ModelList, AnthropicModelList)
    operation = describe_read("listModels", "List the models.", content)
    return {**operation, "description": ANTHROPIC_PAGE_TEXT}


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
    content = content_of({"anyOf": [_ref(Health), _ref(HealthSummary)]})
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


def _error_responses(errors: Errors, shape: Struct = ErrorBody) -> Json:
    """One response per status, described by the docstrings of the errors with that status."""
    responses: Json = {}
    for error in sorted(errors, key=lambda kind: ERROR_RESPONSES[kind].status):
        status = str(ERROR_RESPONSES[error].status)
        summary = (getdoc(error) or "").partition("\n")[0]
        if status in responses:
            responses[status]["description"] += f" {summary}"
        else:
            responses[status] = _response(summary, json_content(shape))
        if issubclass(error, Unavailable):
            responses[status]["headers"]["Retry-After"] = RETRY_AFTER
    return responses


def _response(description: str, content: Json) -> Json:
    headers = {"x-request-id": REQUEST_ID}
    return {"description": description, "headers": headers, "content": content}


def json_content(struct: Struct) -> Json:
    return content_of(_ref(struct))


def either_content(*structs: Struct) -> Json:
    """One of these structs, which the request's headers decide."""
    return content_of({"anyOf": [_ref(struct) for struct in structs]})


def content_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(struct: Struct) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
