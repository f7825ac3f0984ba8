from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion as OpenAIChatCompletion
from openai.types.chat import ChatCompletionChunk as OpenAIChatCompletionChunk

from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatRequest,
    ChunkChoice,
)
from service.schema.usage import Usage

NAMES: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def decode(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    return decode_body(json.dumps(body).encode(), msgspec.json.Decoder(ChatRequest)).request


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_has_two_names(name: str) -> None:
    assert decode(**{name: 7}).token_limit == 7
    assert decode().token_limit is None


def test_the_two_names_of_the_token_limit_cannot_be_combined() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(max_tokens=5, max_completion_tokens=5)
    assert caught.value.param == "max_tokens"


def test_a_response_has_the_shape_that_the_openai_package_parses() -> None:
    answer = ChatCompletion(
        **NAMES,
        choices=[ChatChoice(0, AnswerMessage("assistant", "hello"), "stop")],
        usage=Usage(1, 2, 3),
    )
    body = msgspec.json.encode(answer)
    assert json.loads(body) == {
        **NAMES,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "system_fingerprint": "",
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }
    OpenAIChatCompletion.model_validate_json(body, strict=True)


def test_only_the_first_event_has_the_role() -> None:
    first = encode(ChatDelta(role="assistant", content=""))
    second = encode(ChatDelta(content="hello"))
    last = encode(ChatDelta(), "stop")
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert second["choices"][0]["delta"] == {"content": "hello"}
    assert second["choices"][0]["finish_reason"] is None
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"


def test_usage_is_absent_from_a_stream_unless_it_is_set() -> None:
    choices = [ChunkChoice(0, ChatDelta(content="x"))]
    assert "usage" not in json.loads(
        msgspec.json.encode(ChatCompletionChunk(**NAMES, choices=choices))
    )
    with_usage = ChatCompletionChunk(**NAMES, choices=choices, usage=None)
    assert json.loads(msgspec.json.encode(with_usage))["usage"] is None


def encode(delta: ChatDelta, finish_reason: Any = None) -> dict[str, Any]:
    chunk = ChatCompletionChunk(**NAMES, choices=[ChunkChoice(0, delta, finish_reason)])
    body = msgspec.json.encode(chunk)
    OpenAIChatCompletionChunk.model_validate_json(body, strict=True)
    event: dict[str, Any] = json.loads(body)
    assert event["object"] == "chat.completion.chunk"
    return event
