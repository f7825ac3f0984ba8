"""The blocks of a conversation become the messages that a chat template reads."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from service.api.messages.conversation import to_template
from service.api.messages.request import MessagesRequest
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.store.encoded_thinking import EncodedThinking

THINKING = EncodedThinking(lambda: b"k" * 32)
DECODER = msgspec.json.Decoder(MessagesRequest)
USER = {"role": "user", "content": "x"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def decode(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 8, "messages": [USER], **fields}
    return decode_body(json.dumps(body).encode(), DECODER).request


def template(*messages: Any, system: Any = None) -> list[dict[str, Any]]:
    request = decode(messages=messages, system=system)
    return to_template(request.system, request.turns, THINKING)


def call(id: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "f", "input": input}


def result(id: str, content: Any = "done", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def test_system_blocks_are_joined_without_the_billing_header() -> None:
    blocks = [text("x-anthropic-billing-header: cc_version=1; cch=2;"), text("One."), text("Two.")]
    assert template(USER, system=blocks)[0] == {"role": "system", "content": "One.\n\nTwo."}
    assert template(USER, system=blocks[:1]) == [USER]


def test_a_system_message_keeps_its_place() -> None:
    found = template(USER, {"role": "system", "content": [text("Be brief.")]}, USER)
    assert [message["role"] for message in found] == ["user", "system", "user"]


def test_neighbours_of_one_role_are_joined() -> None:
    found = template(USER, {"role": "user", "content": [text("a "), text("b")]})
    assert found == [{"role": "user", "content": "x\n\na b"}]


def test_an_answer_is_one_message_and_results_follow_in_the_order_of_the_calls() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "foreign"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    answer = [thinking, redacted, text("I look."), call("1", b=1, a=2), call("2")]
    results = [result("2", is_error=True), result("1", [text("4"), text("2")]), text("And?")]
    found = template(
        USER, {"role": "assistant", "content": answer}, {"role": "user", "content": results}
    )
    assert found[1]["content"] == "I look."
    assert found[1]["reasoning_content"] == "Hm."
    functions = [each["function"] for each in found[1]["tool_calls"]]
    assert [json.loads(function["arguments"]) for function in functions] == [{"b": 1, "a": 2}, {}]
    assert found[2:] == [
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        {"role": "tool", "content": "Error: done", "tool_call_id": "2"},
        {"role": "user", "content": "And?"},
    ]


def test_thinking_without_its_text_is_read_from_our_own_signature() -> None:
    def reasoning(text: str, signature: str) -> Any:
        block = {"type": "thinking", "thinking": text, "signature": signature}
        messages = [USER, {"role": "assistant", "content": [block]}, USER]
        return template(*messages)[1].get("reasoning_content")

    signed = THINKING.encode("m", "Signed.")
    assert reasoning("", signed) == "Signed."
    assert reasoning("Plain.", signed) == "Plain."
    assert reasoning("", "Eq0B-of-another-server") is None


def test_a_document_is_its_title_its_context_and_its_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Body"}
    document = {"type": "document", "source": source, "title": "Title", "context": "Context"}
    found = template({"role": "user", "content": [document, text("Why?")]})
    assert found == [{"role": "user", "content": "Title\n\nContext\n\nBody\n\nWhy?"}]


@pytest.mark.parametrize("content", ["", []])
def test_an_empty_last_answer_begins_nothing(content: Any) -> None:
    request = decode(messages=[USER, {"role": "assistant", "content": content}])
    assert (request.turns, request.is_prefilled) == (request.messages[:1], False)


def test_empty_texts_are_taken() -> None:
    assert template({"role": "user", "content": [text("")]}) == [{"role": "user", "content": ""}]


PREFILL = [USER, {"role": "assistant", "content": "{"}]
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}
PDF = {"type": "document", "source": {"type": "url", "url": "http://x"}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("container", {"container": "c"}),
    ("inference_geo", {"inference_geo": "us"}),
    ("mcp_servers", {"mcp_servers": [{"type": "url"}]}),
    ("service_tier", {"service_tier": "priority"}),
    ("speed", {"speed": "fast"}),
    ("temperature", {"temperature": 1.5}),
    ("fallbacks", {"fallbacks": ["m"]}),
    ("thinking.type", {"thinking": {"type": "between_tools"}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 0}}),
    ("context_management.edits[0]", {"context_management": {"edits": [{"type": "compact_x"}]}}),
    ("output_format", {"output_format": SCHEMA, "output_config": {"format": SCHEMA}}),
    ("structured_outputs", {"output_format": SCHEMA, "structured_outputs": {"regex": "a"}}),
    ("messages[1]", {"messages": PREFILL, "output_format": SCHEMA}),
    ("messages[1]", {"messages": PREFILL, "tools": [TOOL], "tool_choice": {"type": "any"}}),
    (
        "messages[1].content[0].type",
        {"messages": [USER, {"role": "assistant", "content": [call("1")]}]},
    ),
    (
        "messages[0].content[0].tool_use_id",
        {"messages": [{"role": "user", "content": [result("1")]}]},
    ),
    ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    ("messages[0].content[0].source.type", {"messages": [{"role": "user", "content": [PDF]}]}),
    ("tools[0].type", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    ("tools[0].type", {"tools": [{"type": "web_search_20250305", "name": "w", "max_uses": 1}]}),
    ("tools[0].defer_loading", {"tools": [{**TOOL, "defer_loading": True}]}),
    ("tools[0].allowed_callers", {"tools": [{**TOOL, "allowed_callers": ["code_execution"]}]}),
    ("tools[0].input_schema", {"tools": [{"name": "f", "input_schema": {"type": "array"}}]}),
    ("tools[1].name", {"tools": [TOOL, TOOL]}),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}),
    ("stop_sequences", {"stop_sequences": ["x" * 1000] * 17}),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


NEUTRAL: list[dict[str, Any]] = [
    {"container": None, "mcp_servers": [], "inference_geo": None, "speed": "standard"},
    {"service_tier": "auto"},
    {"service_tier": "standard_only", "metadata": {"user_id": "u"}, "diagnostics": None},
    {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    {"tools": [{**TOOL, "type": "custom", "eager_input_streaming": True, "defer_loading": False}]},
    {"tools": [{**TOOL, "type": None, "allowed_callers": ["direct"]}]},
    {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_values_that_change_nothing_are_taken(fields: dict[str, Any]) -> None:
    request = decode(**fields)
    assert (request.effort, request.thinking_budget) == (None, None)
    assert request.turns == decode().turns


def test_examples_of_a_tools_input_are_in_its_description() -> None:
    tool = {**TOOL, "description": "Add.", "input_examples": [{"a": 1}]}
    (found,) = decode(tools=[tool]).tools or []
    assert found.to_function().description == 'Add.\nExamples of the input:\n{"a":1}'


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (False, True)),
        ({"type": "auto"}, (False, True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, (False, False)),
        ({"type": "any"}, (True, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (True, False)),
        ({"type": "tool", "name": "f"}, (True, False)),
    ],
)
def test_each_choice_of_a_tool_is_honoured(choice: Any, expected: tuple[bool, bool]) -> None:
    use = decode(tools=[TOOL], tool_choice=choice).tool_use
    assert use is not None
    assert (use.required, use.parallel) == expected
    assert decode(tools=[TOOL], tool_choice={"type": "none"}).tool_use is None


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "none"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "medium"),
        ({"output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "high"}}, None),
        ({}, None),
    ],
)
def test_thinking_and_effort_are_one_effort(fields: dict[str, Any], effort: str | None) -> None:
    assert decode(**fields).effort == effort
