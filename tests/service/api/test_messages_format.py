"""What the worker gets of a request, and its refusals in Anthropic's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.messages import ChatPrompt
from service.api.messages.format import MessagesFormat
from service.api.messages.request import MessagesRequest
from service.errors import ContextTooLong, InvalidRequest, ModelNotFound
from service.store.encoded_thinking import EncodedThinking

THINKING = EncodedThinking(lambda: b"k" * 32)
FORMAT = MessagesFormat(THINKING)
USER = {"role": "user", "content": "x"}


def request(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 8, "messages": [USER], **fields}
    return msgspec.convert(body, MessagesRequest)


@pytest.mark.parametrize(
    ("prompt", "answer", "limit", "text"),
    [
        (30000, 1, 8192, "prompt is too long: 30000 tokens > 8192 maximum"),
        (8192, 1, 8192, "prompt is too long: 8192 tokens > 8191 maximum"),
        (9000, 32000, 8192, "prompt is too long: 9000 tokens > 8192 maximum"),
        (
            6000,
            32000,
            32768,
            "input length and `max_tokens` exceed context limit: 6000 + 32000 > 32768",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_parse(
    prompt: int, answer: int, limit: int, text: str
) -> None:
    error = ContextTooLong(
        "Too long.",
        param="messages",
        prompt_tokens=prompt,
        answer_tokens=answer,
        limit_tokens=limit,
    )
    explained = FORMAT.explain(error)
    assert isinstance(explained, InvalidRequest)
    assert (explained.message, explained.param) == (text, None)


def test_a_parameter_has_its_own_name_in_an_error() -> None:
    worker = InvalidRequest(
        "The template does not support `reasoning_effort` low.", param="reasoning_effort"
    )
    explained = FORMAT.explain(worker)
    assert explained.param == "output_config.effort"
    assert explained.message == "The template does not support `output_config.effort` low."
    never = InvalidRequest("It does not support `reasoning_effort` none.", param="reasoning_effort")
    assert FORMAT.explain(never).param == "thinking.type"
    missing = ModelNotFound("m")
    assert FORMAT.explain(missing) is missing


def test_a_budget_ends_the_thinking_and_turns_it_on() -> None:
    thinking = {"type": "enabled", "budget_tokens": 64}
    (submit,) = FORMAT.to_submits(request(thinking=thinking), "m")
    assert submit.thinking_budget == 64
    assert isinstance(submit.prompt, ChatPrompt)
    assert (submit.prompt.reasoning_effort, submit.prompt.ignores_effort) == ("medium", True)
    (plain,) = FORMAT.to_submits(request(), "m")
    assert plain.thinking_budget is None


def test_the_prompt_has_the_tools_unless_none_may_be_called() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}, "description": "d"}]
    prompt = FORMAT.to_prompt(request(tools=tools))
    assert [tool["function"]["name"] for tool in prompt.tools] == ["f"]
    assert FORMAT.to_prompt(request(tools=tools, tool_choice={"type": "none"})).tools == []


def test_the_last_answer_is_continued() -> None:
    prompt = FORMAT.to_prompt(request(messages=[USER, {"role": "assistant", "content": "So"}]))
    assert prompt.continue_final
    assert not FORMAT.to_prompt(request()).continue_final
