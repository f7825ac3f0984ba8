from __future__ import annotations

import json

import pytest

from service.errors import ERROR_RESPONSES, InvalidRequest, MlxdError, Overloaded
from service.http.anthropic_errors import encode_anthropic_error, render_for, type_for

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "invalid_request_error",
    500: "api_error",
    501: "api_error",
    503: "overloaded_error",
    505: "api_error",
}


@pytest.mark.parametrize("kind", ERROR_RESPONSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_type_of_anthropics(kind: type[MlxdError]) -> None:
    assert type_for(kind.__new__(kind)) == TYPES[ERROR_RESPONSES[kind].status]


def test_the_message_names_the_parameter_once() -> None:
    for message in ("Too long.", "`system` is too long."):
        error = InvalidRequest(message, param="system")
        found = json.loads(encode_anthropic_error(error, "req_1"))
        assert found["error"]["message"].count("system") == 1
        assert found["request_id"] == "req_1"


def test_an_unknown_exception_keeps_its_text_to_itself() -> None:
    found = json.loads(encode_anthropic_error(ValueError("a secret"), "req_1"))
    assert found["error"]["type"] == "api_error"
    assert "secret" not in found["error"]["message"]


def test_the_headers_of_an_error_are_kept() -> None:
    status, headers, body = render_for(Overloaded("Full."), "/v1/messages", [], "req_1")
    fields = dict(headers)
    assert status == 429
    assert fields[b"retry-after"]
    assert fields[b"content-length"] == str(len(body)).encode()
    assert len(fields) == len(headers)
