"""The bodies of /v1/responses that /openapi.json allows are those that the decoder takes."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.responses.shapes.conversations import NewConversation
from service.api.responses.shapes.hosted_tools import HOSTED_KINDS
from service.api.responses.shapes.request import ResponseRequest
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from tests.service.parts import describe

API: dict[str, Any] = json.loads(json.dumps(describe("1.2.3")))
TYPES = {"/v1/responses": ResponseRequest, "/v1/conversations": NewConversation}
USER = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
# Values that are no string, so that no field of a type takes one of them in place of another.
kinds = st.sampled_from([*HOSTED_KINDS, "hosted", "made_up", ""])
extras = st.dictionaries(st.sampled_from(["kind", "name", "server_url"]), st.integers(1, 9))


def allows(path: str, body: dict[str, Any]) -> bool:
    """Whether the description of `path` allows this body."""
    operation = API["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return jsonschema.Draft202012Validator({**schema, **API}).is_valid(body)


def takes(path: str, body: dict[str, Any]) -> bool:
    """Whether the decoder takes this body."""
    try:
        decode_body(json.dumps(body).encode(), msgspec.json.Decoder(TYPES[path]))
    except InvalidRequest:
        return False
    return True


@pytest.mark.parametrize(
    ("item", "is_item"),
    [
        (USER, True),
        ({**USER, "type": "message"}, True),
        ({**USER, "type": None}, True),
        ({"id": "msg_1"}, True),
        ({"id": "msg_1", "type": "item_reference"}, True),
        ({"type": "item_reference"}, False),
        (CALL, True),
        ({key: value for key, value in CALL.items() if key != "type"}, False),
        ({"type": "reasoning", "content": [{"text": ""}], "summary": [{"text": ""}]}, True),
        ({"type": "reasoning", "content": [{"type": "summary_text", "text": ""}]}, False),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}, True),
        ({"type": "custom_tool_call_output", "call_id": "c", "output": [{"text": "x"}]}, True),
        ({"role": "user"}, False),
        ({}, False),
        ({"type": "computer_call"}, False),
    ],
)
def test_items_may_leave_out_the_types_that_the_description_lets_them(
    item: dict[str, Any], is_item: bool
) -> None:
    body = {"model": "m", "input": [USER, item]}
    assert allows("/v1/responses", body) == takes("/v1/responses", body) == is_item
    conversation = {"items": [item]}
    assert allows("/v1/conversations", conversation) == is_item
    # The description has no words for what a conversation does not take.
    if "id" not in item:
        assert takes("/v1/conversations", conversation) == is_item


@given(kind=kinds, extra=extras)
def test_hosted_tools_have_their_own_types_and_any_fields(kind: str, extra: dict[str, int]) -> None:
    tool = {"type": kind, **extra}
    bodies: list[dict[str, Any]] = [
        {"model": "m", "input": "x", "tools": [tool]},
        {"model": "m", "input": "x", "tool_choice": tool},
        {
            "model": "m",
            "input": "x",
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [tool]},
        },
    ]
    for body in bodies:
        assert allows("/v1/responses", body) == (kind in HOSTED_KINDS)
        # The choice of a hosted tool is refused later, when its tool is looked for.
        if "tools" in body or kind not in HOSTED_KINDS:
            assert takes("/v1/responses", body) == (kind in HOSTED_KINDS)
