from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.errors import (
    BodyMemoryFull,
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    GenerationFailed,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    MethodNotSupported,
    MlxdError,
    ModelNotFound,
    Overloaded,
    RouteNotFound,
    UnsupportedMediaType,
    WorkerCrashed,
    WorkerUnavailable,
    encode_error,
    render_error,
)


def detail(error: BaseException) -> dict[str, Any]:
    body = json.loads(render_error(error).body)
    assert list(body) == ["error"]
    error_detail: dict[str, Any] = body["error"]
    assert list(error_detail) == ["message", "type", "param", "code"]
    return error_detail


def headers(error: BaseException) -> dict[bytes, bytes]:
    return dict(render_error(error).headers)


@pytest.mark.parametrize(
    ("error", "status", "type_", "code"),
    [
        (InvalidRequest("no"), 400, "invalid_request_error", None),
        (ModelNotFound("gpt-9"), 404, "invalid_request_error", "model_not_found"),
        (RouteNotFound("no"), 404, "invalid_request_error", "not_found"),
        (MethodNotAllowed("no"), 405, "invalid_request_error", "method_not_allowed"),
        (MethodNotSupported("no"), 501, "invalid_request_error", "unsupported_method"),
        (BodyTimeout("no"), 408, "invalid_request_error", "body_timeout"),
        (BodyTooLarge("no"), 413, "invalid_request_error", "body_too_large"),
        (UnsupportedMediaType("no"), 415, "invalid_request_error", "unsupported_media_type"),
        (HeadersTooLarge("no"), 431, "invalid_request_error", "headers_too_large"),
        (ClientDisconnected("no"), 499, "invalid_request_error", "client_disconnected"),
        (BodyMemoryFull("no"), 503, "server_error", "body_memory_full"),
        (Overloaded("no"), 429, "rate_limit_error", "overloaded"),
        (WorkerUnavailable("no", code="loading"), 503, "server_error", "loading"),
        (InternalError("no"), 500, "server_error", "internal_error"),
        (GenerationFailed("no"), 500, "server_error", "generation_failed"),
        (WorkerCrashed("no"), 500, "server_error", "worker_crashed"),
        (KeyError("no"), 500, "server_error", "internal_error"),
    ],
)
def test_each_error_has_its_status_type_and_code(
    error: Exception, status: int, type_: str, code: str | None
) -> None:
    assert render_error(error).status == status
    assert (detail(error)["type"], detail(error)["code"]) == (type_, code)


def test_the_docstring_lists_every_class_of_the_tree() -> None:
    tree = errors.__doc__ or ""
    pending = [MlxdError]
    while pending:
        kind = pending.pop()
        assert f" {kind.__name__} " in tree.replace("\n", " ")
        pending.extend(kind.__subclasses__())


def test_the_code_and_the_param_given_by_the_caller_are_sent() -> None:
    sent = detail(InvalidRequest("too long", param="messages", code="context_length_exceeded"))
    assert sent["param"] == "messages"
    assert sent["code"] == "context_length_exceeded"


def test_an_unavailable_error_sends_retry_after() -> None:
    assert headers(Overloaded("full", retry_after_s=7))[b"retry-after"] == b"7"
    assert b"retry-after" in headers(WorkerUnavailable("loading", code="loading"))
    assert b"retry-after" not in headers(InvalidRequest("no"))


def test_a_permanent_error_tells_clients_not_to_retry() -> None:
    assert headers(WorkerCrashed("no"))[b"x-should-retry"] == b"false"
    assert b"x-should-retry" not in headers(WorkerUnavailable("no", code="restarting"))


def test_nothing_of_an_unknown_exception_reaches_the_client() -> None:
    assert b"secret" not in render_error(ValueError("secret /path")).body


def test_a_model_name_of_a_megabyte_gives_a_short_message() -> None:
    assert len(detail(ModelNotFound("m" * 1_000_000))["message"]) < 200


def test_control_characters_of_the_client_are_escaped() -> None:
    message = detail(InvalidRequest("a\nb\x1b[31m\u2028\ud800"))["message"]
    assert message == "a\\nb\\x1b[31m\\u2028\\ud800"


def test_the_event_of_a_stream_is_the_body_of_a_response() -> None:
    error = GenerationFailed("the sampler failed")
    assert encode_error(error) == render_error(error).body
    assert b"\n" not in encode_error(error)


@given(st.text(alphabet=st.characters(), max_size=2_000), st.text(alphabet=st.characters()))
def test_any_text_becomes_one_short_line_of_json(message: str, param: str) -> None:
    sent = detail(InvalidRequest(message, param=param))
    for text in (sent["message"], sent["param"]):
        assert len(text) <= 300
        assert text.isprintable()
