"""Stored items of input as the types of the `openai` package have items that are read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.conversations import ConversationItem
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from service.api.responses.shapes.items import InputItem
from service.api.responses.stored import INPUT_PREFIXES, store_input
from service.schema.object_ids import ObjectIds

USER = {"type": "message", "role": "user"}
TEXT = {"type": "input_text", "text": "b"}
ITEMS: list[dict[str, Any]] = [
    {**USER, "content": "a"},
    {**USER, "content": [TEXT]},
    {"type": "message", "role": "assistant", "content": "a"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"},
    {"type": "function_call_output", "call_id": "c", "output": ""},
    {"type": "function_call_output", "call_id": "c", "output": [TEXT]},
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": ""},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "a"},
    {"type": "reasoning", "summary": []},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a"}]},
]
READERS: list[TypeAdapter[Any]] = [TypeAdapter(ResponseItem), TypeAdapter(ConversationItem)]
statuses = st.sampled_from([None, "in_progress", "completed", "incomplete"])


def test_there_is_an_item_of_each_type() -> None:
    assert {item["type"] for item in ITEMS} == set(INPUT_PREFIXES)


@pytest.mark.parametrize("read", READERS, ids=["response", "conversation"])
@given(item=st.sampled_from(ITEMS), status=statuses, id=st.none() | st.just("msg_own"))
def test_an_item_is_one_of_the_sdks_types_whatever_it_leaves_out(
    read: TypeAdapter[Any], item: dict[str, Any], status: str | None, id: str | None
) -> None:
    given_item = msgspec.convert({**item, "status": status, "id": id}, InputItem)
    stored = store_input(given_item, ObjectIds(""))
    shown = json.loads(stored.data)
    known = read.validate_json(stored.data, strict=True)
    assert known.type == item["type"]
    assert known.id == shown["id"] == stored.id
    if item["type"] != "reasoning":
        assert shown["status"] == (status or "completed")
