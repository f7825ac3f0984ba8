from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from service.decoding import decode_body
from service.errors import InvalidRequest
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.schema.parameters import NEUTRAL, GenerationRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "m", "prompt": "hello"}

HONOURED = {
    *("model", "messages", "prompt", "echo", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "stop", "stream", "stream_options"),
}
LABELS = {
    *("user", "metadata", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_options", "prompt_cache_retention"),
}

LOUD: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "best_of": 2,
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "logit_bias": {"5": 1},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "n": 2,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": -0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "service_tier": "flex",
    "store": True,
    "suffix": "the end",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
}


def chat(**fields: Any) -> ChatRequest:
    return decode_body(json.dumps(CHAT | fields).encode(), msgspec.json.Decoder(ChatRequest))


def text(**fields: Any) -> CompletionRequest:
    return decode_body(json.dumps(TEXT | fields).encode(), msgspec.json.Decoder(CompletionRequest))


def ask(name: str, value: Any) -> GenerationRequest:
    """Ask the endpoint that knows the parameter, chat first."""
    known = name in ChatRequest.__struct_fields__
    return chat(**{name: value}) if known else text(**{name: value})


@pytest.mark.parametrize(
    ("documented", "request_type"),
    [(ChatParams, ChatRequest), (TextParams, CompletionRequest)],
    ids=["chat", "completions"],
)
def test_every_documented_parameter_is_honoured_or_in_the_table(
    documented: type, request_type: type[GenerationRequest]
) -> None:
    names = documented.__annotations__.keys()
    assert names - set(request_type.__struct_fields__) == set()
    assert names - HONOURED - LABELS - set(NEUTRAL) == set()


def test_nothing_is_both_honoured_and_in_the_table() -> None:
    assert not (HONOURED | LABELS) & set(NEUTRAL)


def test_every_parameter_of_the_table_is_refused_in_these_tests() -> None:
    of_both_meanings = {"logprobs", "parallel_tool_calls", "stream_options.include_obfuscation"}
    assert set(LOUD) == set(NEUTRAL) - of_both_meanings


@pytest.mark.parametrize("name", LOUD)
def test_what_would_change_the_answer_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(name, LOUD[name])
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in LOUD for value in (None, *NEUTRAL[name])]
)
def test_what_changes_nothing_is_taken(name: str, value: Any) -> None:
    ask(name, value)


def test_a_neutral_integer_is_as_good_as_a_neutral_float() -> None:
    chat(presence_penalty=0, frequency_penalty=0)


@pytest.mark.parametrize("value", [True, False])
def test_without_tools_parallel_calls_mean_nothing(value: bool) -> None:
    chat(parallel_tool_calls=value)


def test_log_probabilities_mean_one_thing_to_each_endpoint() -> None:
    chat(logprobs=False)
    for ask_for, value in ((chat, True), (text, 0), (text, 1)):
        with pytest.raises(InvalidRequest) as caught:
            ask_for(logprobs=value)
        assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")


@pytest.mark.parametrize("stream", [None, False])
def test_stream_options_want_a_stream(stream: bool | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(stream=stream, stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


def test_usage_is_included_only_when_asked() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert not chat(stream=True).include_usage


def test_obfuscation_of_a_stream_is_refused_by_its_path() -> None:
    chat(stream=True, stream_options={"include_obfuscation": False})
    with pytest.raises(InvalidRequest) as caught:
        chat(stream=True, stream_options={"include_obfuscation": True})
    assert caught.value.param == "stream_options.include_obfuscation"


def test_labels_and_hints_are_taken_as_what_they_are() -> None:
    request = chat(
        user="u",
        metadata={"k": "v"},
        safety_identifier="s",
        prompt_cache_key="p",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"},
        prompt_cache_retention="24h",
    )
    assert request.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("stop", "strings"), [(None, []), ("a", ["a"]), (["a", "b", "c", "d"], ["a", "b", "c", "d"])]
)
def test_stop_is_always_read_as_a_list(stop: Any, strings: list[str]) -> None:
    assert chat(stop=stop).stop_strings == strings


@pytest.mark.parametrize("seed", [-(2**63), 0, 2**63 - 1])
def test_a_seed_is_any_64_bit_integer(seed: int) -> None:
    assert chat(seed=seed).seed == seed
