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


def conversation(*said: dict[str, Any]) -> Conversation:
    read = msgspec.json.decode(json.dumps(said).encode(), type=Conversation)
    check_conversation(read)
    return read


def text_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("content", ["hello", text_parts("hel", "lo")])
def test_each_role_speaks_in_a_string_or_in_text_parts(role: str, content: Any) -> None:
    read = conversation({"role": role, "content": content, "name": "n"})
    assert to_template(read) == [{"role": role, "content": "hello", "name": "n"}]


def test_a_tool_answers_a_call() -> None:
    said = {"role": "tool", "tool_call_id": "c1", "content": text_parts("4", "2")}
    assert to_template(conversation(said)) == [said | {"content": "42"}]


@pytest.mark.parametrize("empty", [{}, {"content": None}])
def test_an_assistant_that_called_tools_needs_no_content(empty: dict[str, Any]) -> None:
    read = conversation({"role": "assistant", "tool_calls": [CALL]} | empty)
    assert to_template(read) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.mark.parametrize("empty", [{}, {"content": None}, {"tool_calls": None}])
def test_an_assistant_that_said_nothing_is_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation({"role": "user", "content": "x"}, {"role": "assistant"} | empty)
    assert caught.value.param == "messages[1].content"
    assert caught.value.code == "missing_required_parameter"


def test_a_refusal_is_something_said() -> None:
    conversation({"role": "assistant", "content": None, "refusal": "no"})
    read = conversation({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})
    assert to_template(read)[0]["content"] == "no"


def test_a_deprecated_function_call_and_its_result_are_a_tool_call_and_its_result() -> None:
    function = {"name": "f", "arguments": "{}"}
    read = conversation(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "f", "content": "42"},
    )
    call = {"id": "call_1", "type": "function", "function": function}
    assert to_template(read)[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "42", "tool_call_id": "call_1"},
    ]


def test_earlier_reasoning_goes_to_the_template() -> None:
    said = {"role": "assistant", "content": "x", "reasoning_content": "because"}
    assert to_template(conversation(said)) == [said]


@pytest.mark.parametrize("name", ["audio", "annotations"])
def test_what_a_text_model_cannot_be_told_is_refused_unless_null(name: str) -> None:
    said = {"role": "assistant", "content": "x"}
    conversation(said | {name: None})
    with pytest.raises(InvalidRequest) as caught:
        conversation(said | {name: [{"id": "a"}]})
    assert caught.value.param == f"messages[0].{name}"
    assert caught.value.code == "unsupported_parameter"


def test_an_answer_of_the_openai_package_can_be_sent_back_as_it_came() -> None:
    echoed: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
    }
    nulls = dict.fromkeys(["audio", "function_call", "tool_calls"])
    assert to_template(conversation(echoed | nulls))[0]["content"] == "x"


@pytest.mark.parametrize(
    ("documented", "read"),
    [
        (ChatCompletionSystemMessageParam, messages.SystemMessage),
        (ChatCompletionDeveloperMessageParam, messages.DeveloperMessage),
        (ChatCompletionUserMessageParam, messages.UserMessage),
        (ChatCompletionAssistantMessageParam, messages.AssistantMessage),
        (ChatCompletionToolMessageParam, messages.ToolMessage),
    ],
)
def test_every_documented_field_of_a_message_is_known(
    documented: type, read: type[messages.ConversationMessage]
) -> None:
    assert documented.__annotations__.keys() - {"role"} - set(read.__struct_fields__) == set()
