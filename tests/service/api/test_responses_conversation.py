"""Items of a response as the messages of a chat template."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.responses.conversation import to_messages
from service.api.responses.shapes.items import InputItem
from service.api.responses.shapes.tools import (
    AnyTool,
    CustomTool,
    FunctionTool,
    NamespaceTool,
    offer,
)
from service.errors import InvalidRequest

ITEMS: msgspec.json.Decoder[list[InputItem]] = msgspec.json.Decoder(list[InputItem])


def read(*items: dict[str, Any]) -> list[InputItem]:
    return ITEMS.decode(json.dumps(items))


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def call(id: str, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": "{}", **more}


def result(id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output}


def reasoning(text: str) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def test_consecutive_items_of_the_assistant_are_one_message() -> None:
    items = read(
        message("user", "Hi"),
        reasoning("I think."),
        message("assistant", "I look."),
        call("a"),
        call("b", "g"),
        result("b", "two"),
        result("a", [{"type": "input_text", "text": "o"}, {"type": "input_text", "text": "ne"}]),
        message("assistant", [{"type": "output_text", "text": "Done"}]),
    )
    user, assistant, first, second, last = to_messages(items)
    assert user == {"role": "user", "content": "Hi"}
    assert assistant["content"] == "I look."
    assert assistant["reasoning_content"] == "I think."
    assert [each["function"]["name"] for each in assistant["tool_calls"]] == ["f", "g"]
    # The results have the order of the calls.
    assert [each["tool_call_id"] for each in (first, second)] == ["a", "b"]
    assert first["content"] == "one"
    assert last == {"role": "assistant", "content": "Done"}


def test_instructions_come_first_and_before_earlier_items() -> None:
    earlier = read(message("user", "One"), message("assistant", "Two"))
    made = to_messages(read(message("user", "Three")), earlier=earlier, instructions="Be brief.")
    assert [each["content"] for each in made] == ["Be brief.", "One", "Two", "Three"]
    assert made[0]["role"] == "system"


def test_a_system_message_keeps_its_role_and_its_place() -> None:
    items = read(message("user", "a"), message("system", "b"), message("developer", "c"))
    assert [each["role"] for each in to_messages(items)] == ["user", "system", "developer"]


def test_calls_have_the_names_under_which_the_tools_are_offered() -> None:
    inner = FunctionTool(name="close")
    tools: list[AnyTool] = [
        FunctionTool(name="crew.close"),
        NamespaceTool(name="crew", tools=[inner]),
        CustomTool(name="note"),
    ]
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "note", "input": 'a "b"'}
    items = read(call("a", "close", namespace="crew"), call("b", "gone", namespace="old"), custom)
    [turn] = to_messages(items, offered=offer(tools))
    names = [each["function"]["name"] for each in turn["tool_calls"]]
    assert names == ["crew__close", "old.gone", "note"]
    assert json.loads(turn["tool_calls"][2]["function"]["arguments"]) == {"input": 'a "b"'}


def test_a_refusal_is_what_the_assistant_said_and_empty_reasoning_says_nothing() -> None:
    refusal = message("assistant", [{"type": "refusal", "refusal": "No."}])
    items = read({"type": "reasoning", "summary": []}, refusal)
    assert to_messages(items) == [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize("kind", ["function_call_output", "custom_tool_call_output"])
def test_a_result_without_its_call_is_named_by_its_place(kind: str) -> None:
    orphan = {"type": kind, "call_id": "nowhere", "output": "x"}
    with pytest.raises(InvalidRequest) as raised:
        to_messages(read(message("user", "Hi"), call("a"), orphan))
    assert raised.value.param == "input[2]"
    with pytest.raises(InvalidRequest) as raised:
        to_messages([], earlier=read(orphan))
    assert raised.value.param == "input"


TEXTS = st.text(min_size=1, max_size=5)
TURNS = st.one_of(
    st.builds(lambda role, text: [message(role, text)], st.sampled_from(["user", "system"]), TEXTS),
    st.builds(lambda text: [message("assistant", text)], TEXTS),
    st.builds(lambda text: [reasoning(text)], TEXTS),
)


@given(st.lists(TURNS, max_size=8), st.permutations(range(3)))
def test_no_text_is_lost_and_results_follow_their_calls(
    turns: list[list[dict[str, Any]]], order: list[int]
) -> None:
    calls = [call(str(number)) for number in range(3)]
    results = [result(str(number), f"result {number}") for number in order]
    items = [item for turn in turns for item in turn]
    made = to_messages(read(*items, *calls, *results))
    said = json.dumps(made, ensure_ascii=False)
    for item in items:
        text = item.get("content")
        inner = text if isinstance(text, str) else item["content"][0]["text"]
        assert json.dumps(inner, ensure_ascii=False)[1:-1] in said
    assert [each["content"] for each in made[-3:]] == [f"result {n}" for n in range(3)]
    assert made[-4]["role"] == "assistant"
    assert not any(
        one["role"] == two["role"] == "assistant" for one, two in itertools.pairwise(made)
    )
