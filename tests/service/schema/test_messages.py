from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)

from service.errors import InvalidRequest
from service.schema import messages
from service.schema.messages import Conversation, check_conversation, to_template

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def decode(*sent: dict[str, Any]) -> Conversation:
    conversation = msgspec.json.decode(json.dumps(sent).encode(), type=Conversation)
    check_conversation(conversation)
    return conversation


def text_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("content", ["hello", text_parts("hel", "lo")])
def test_the_content_of_each_role_is_a_string_or_text_parts(role: str, content: Any) -> None:
    conversation = decode({"role": role, "content": content, "name": "n"})
    assert to_template(conversation) == [{"role": role, "content": "hello", "name": "n"}]


def test_a_tool_message_has_the_result_of_a_call() -> None:
    sent = {"role": "tool", "tool_call_id": "c1", "content": text_parts("4", "2")}
    assert to_template(decode(sent)) == [sent | {"content": "42"}]


@pytest.mark.parametrize(
    "sent", [{"role": "tool", "tool_call_id": "c"}, {"role": "function", "name": "f"}]
)
def test_a_tool_may_return_nothing(sent: dict[str, str]) -> None:
    [message] = to_template(decode(sent | {"content": []}))
    assert message["content"] == ""


@pytest.mark.parametrize("empty", [{}, {"content": None}])
def test_an_assistant_message_with_tool_calls_needs_no_content(empty: dict[str, Any]) -> None:
    conversation = decode({"role": "assistant", "tool_calls": [CALL]} | empty)
    assert to_template(conversation) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.mark.parametrize("empty", [{}, {"content": None}, {"tool_calls": None}])
def test_an_empty_assistant_message_is_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode({"role": "user", "content": "x"}, {"role": "assistant"} | empty)
    assert caught.value.param == "messages[1].content"
    assert caught.value.code == "missing_required_parameter"


def test_an_assistant_message_may_be_a_refusal() -> None:
    decode({"role": "assistant", "content": None, "refusal": "no"})
    conversation = decode({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})
    assert to_template(conversation)[0]["content"] == "no"


def test_a_deprecated_function_call_and_its_result_become_a_tool_call_and_its_result() -> None:
    function = {"name": "f", "arguments": "{}"}
    conversation = decode(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "f", "content": "42"},
    )
    call = {"id": "call_1", "type": "function", "function": function}
    assert to_template(conversation)[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "42", "tool_call_id": "call_1"},
    ]


def test_earlier_reasoning_is_passed_to_the_template() -> None:
    sent = {"role": "assistant", "content": "x", "reasoning_content": "because"}
    assert to_template(decode(sent)) == [sent]


@pytest.mark.parametrize("name", ["audio", "annotations"])
def test_a_field_that_a_text_model_cannot_use_is_refused_unless_null(name: str) -> None:
    sent = {"role": "assistant", "content": "x"}
    decode(sent | {name: None})
    with pytest.raises(InvalidRequest) as caught:
        decode(sent | {name: [{"id": "a"}]})
    assert caught.value.param == f"messages[0].{name}"
    assert caught.value.code == "unsupported_parameter"


def test_a_message_of_the_openai_package_can_be_sent_back_unchanged() -> None:
    echoed: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
    }
    nulls = dict.fromkeys(["audio", "function_call", "tool_calls"])
    assert to_template(decode(echoed | nulls))[0]["content"] == "x"


@pytest.mark.parametrize(
    ("documented", "message_type"),
    [
        (ChatCompletionSystemMessageParam, messages.SystemMessage),
        (ChatCompletionDeveloperMessageParam, messages.DeveloperMessage),
        (ChatCompletionUserMessageParam, messages.UserMessage),
        (ChatCompletionAssistantMessageParam, messages.AssistantMessage),
        (ChatCompletionToolMessageParam, messages.ToolMessage),
    ],
)
def test_every_documented_field_of_a_message_is_known(
    documented: type, message_type: type[messages.ConversationMessage]
) -> None:
    assert (
        documented.__annotations__.keys() - {"role"} - set(message_type.__struct_fields__) == set()
    )
