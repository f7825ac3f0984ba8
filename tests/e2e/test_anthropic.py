"""The `anthropic` package, as its users use it, against the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.e2e.daemon import Daemon, running
from tests.e2e.keys import KEYS, PLAIN
from tests.oracle import chat_tokens, greedy_text

USER: list[MessageParam] = [{"role": "user", "content": "Say hi"}]
TOKENS = 40
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def connect(daemon: Daemon, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=daemon.url, api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    with connect(daemon) as client:
        yield client


def ask(
    client: anthropic.Anthropic, messages: list[MessageParam], tokens: int = TOKENS
) -> anthropic.types.Message:
    greedy = {"temperature": 0}
    return client.messages.create(
        model="default", max_tokens=tokens, messages=messages, extra_body=greedy
    )


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_an_answer_is_mlx_lms_own_text(claude: anthropic.Anthropic, llama_path: Path) -> None:
    message = ask(claude, USER)
    prompt = chat_tokens(llama_path, [{"role": "user", "content": "Say hi"}])
    assert text_of(message) == greedy_text(llama_path, prompt, TOKENS)
    assert message.stop_reason in ("end_turn", "max_tokens")
    cached = message.usage.cache_read_input_tokens or 0
    assert message.usage.input_tokens + cached == len(prompt)


def test_a_stream_is_the_whole_answer(claude: anthropic.Anthropic) -> None:
    whole = ask(claude, USER)
    with claude.messages.stream(
        model="default", max_tokens=TOKENS, messages=USER, extra_body={"temperature": 0}
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(whole) == text_of(final)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_stop_sequence_ends_the_answer_and_is_named(claude: anthropic.Anthropic) -> None:
    part = text_of(ask(claude, USER))[5:8]
    message = claude.messages.create(
        model="default",
        max_tokens=TOKENS,
        messages=USER,
        stop_sequences=["never", part],
        extra_body={"temperature": 0},
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", part)
    assert part not in text_of(message)


def test_a_tool_is_called_and_its_result_is_answered(demo: Daemon) -> None:
    with connect(demo) as client:
        question: MessageParam = {"role": "user", "content": "What is the weather in Oslo?"}
        called = client.messages.create(
            model="default",
            max_tokens=200,
            messages=[question],
            tools=[WEATHER],
            tool_choice={"type": "any"},
            extra_body={"temperature": 0},
        )
        assert called.stop_reason == "tool_use"
        (call,) = [block for block in called.content if block.type == "tool_use"]
        assert call.id.startswith("toolu_")
        assert isinstance(call.input, dict)
        result: MessageParam = {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}],
        }
        messages: list[MessageParam] = [
            question,
            {"role": "assistant", "content": called.content},
            result,
        ]
        answered = client.messages.create(
            model="default",
            max_tokens=100,
            messages=messages,
            tools=[WEATHER],
            extra_body={"temperature": 0},
        )
        assert "sunny" in text_of(answered)
        counted = client.messages.count_tokens(model="default", messages=messages, tools=[WEATHER])
        cached = answered.usage.cache_read_input_tokens or 0
        assert counted.input_tokens == answered.usage.input_tokens + cached


def test_models_are_listed(claude: anthropic.Anthropic, model_paths: dict[str, Path]) -> None:
    listed = [model.id for model in claude.models.list()]
    assert listed == [path.name for path in model_paths.values()]
    assert claude.models.retrieve("default").id == listed[0]


def test_each_refusal_is_the_error_of_its_kind(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="absent", max_tokens=1, messages=USER)
    with pytest.raises(anthropic.BadRequestError) as invalid:
        claude.messages.create(model="default", max_tokens=0, messages=USER)
    for caught, kind in ((missing, "not_found_error"), (invalid, "invalid_request_error")):
        assert caught.value.type == kind
        assert (caught.value.request_id or "").startswith("req_")


def test_keys_and_limits_have_the_errors_of_their_kinds(llama_path: Path) -> None:
    flags = ["--key-tokens-per-minute", "1"]
    with running(llama_path, flags=flags, environ=KEYS) as daemon:
        with (
            connect(daemon, "another") as stranger,
            pytest.raises(anthropic.AuthenticationError) as caught,
        ):
            ask(stranger, USER)
        assert caught.value.type == "authentication_error"
        with connect(daemon, PLAIN) as known:
            ask(known, USER)
            with pytest.raises(anthropic.RateLimitError) as limited:
                ask(known, USER)
        assert limited.value.type == "rate_limit_error"
        assert limited.value.response.headers["retry-after"]
