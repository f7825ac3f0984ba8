from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.schema.parameter_table import PARAMETERS
from service.schema.parameters import GenerationRequest
from service.schema.tokenization import DetokenizeRequest, TokenizeRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "m", "prompt": "hello"}

REFUSED = {name: p.no_op_values for name, p in PARAMETERS.items() if p.support == "refused"}

EFFECTIVE: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
}


def chat(**fields: Any) -> ChatRequest:
    return decode_body(
        json.dumps(CHAT | fields).encode(), msgspec.json.Decoder(ChatRequest)
    ).request


def text(**fields: Any) -> CompletionRequest:
    return decode_body(
        json.dumps(TEXT | fields).encode(), msgspec.json.Decoder(CompletionRequest)
    ).request


def decode(name: str, value: Any) -> GenerationRequest:
    """A chat request with the parameter, or a completion request if chats do not have it."""
    in_chat = name in ChatRequest.__struct_fields__
    return chat(**{name: value}) if in_chat else text(**{name: value})


@pytest.mark.parametrize(
    ("documented", "request_type"),
    [(ChatParams, ChatRequest), (TextParams, CompletionRequest)],
    ids=["chat", "completions"],
)
def test_every_documented_parameter_is_in_the_table(
    documented: type, request_type: type[GenerationRequest]
) -> None:
    names = documented.__annotations__.keys()
    assert names - set(request_type.__struct_fields__) == set()
    assert names - set(PARAMETERS) == set()


def test_the_table_has_exactly_the_fields_of_the_requests() -> None:
    requests = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
    fields = {name for request in requests for name in request.__struct_fields__}
    assert fields == {name for name in PARAMETERS if "." not in name}


def test_every_refused_parameter_of_the_table_is_tested_here() -> None:
    tested_separately = {"stream_options.include_obfuscation"}
    assert set(EFFECTIVE) == set(REFUSED) - tested_separately


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_value_with_an_unsupported_effect_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(name, EFFECTIVE[name])
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in EFFECTIVE for value in (None, *REFUSED[name])]
)
def test_a_value_without_effect_is_accepted(name: str, value: Any) -> None:
    assert decode(name, value) is not None


def test_a_penalty_may_be_an_integer() -> None:
    assert chat(presence_penalty=0, frequency_penalty=0).presence_penalty == 0


@pytest.mark.parametrize("value", [True, False])
def test_parallel_tool_calls_is_accepted_without_tools(value: bool) -> None:
    assert chat(parallel_tool_calls=value).parallel_tool_calls is value


def test_logprobs_has_its_own_meaning_at_each_endpoint() -> None:
    assert [chat(logprobs=flag).alternatives for flag in (None, False, True)] == [None, None, 0]
    assert chat(logprobs=True, top_logprobs=20).alternatives == 20
    assert text(logprobs=5).logprobs == 5


def test_top_logprobs_requires_logprobs() -> None:
    chat(top_logprobs=0)
    with pytest.raises(InvalidRequest) as caught:
        chat(top_logprobs=1)
    assert caught.value.param == "top_logprobs"


@pytest.mark.parametrize("fields", [{"n": 2, "best_of": 1}, {"best_of": 2, "stream": True}])
def test_best_of_is_at_least_n_and_equal_to_it_in_a_stream(fields: dict[str, Any]) -> None:
    assert (text(n=2, best_of=3).choices, text(n=2, best_of=3).candidates) == (2, 3)
    text(n=2, best_of=2, stream=True)
    with pytest.raises(InvalidRequest) as caught:
        text(**fields)
    assert caught.value.param == "best_of"


def test_max_tokens_can_be_0_only_with_echo() -> None:
    assert text(max_tokens=0, echo=True).token_limit == 0
    for request in (text, chat):
        with pytest.raises(InvalidRequest) as caught:
            request(max_tokens=0)
        assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("stream", [None, False])
def test_stream_options_require_a_stream(stream: bool | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(stream=stream, stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


def test_usage_is_included_only_if_stream_options_say_so() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert not chat(stream=True).include_usage


def test_obfuscation_of_a_stream_is_refused_by_its_path() -> None:
    chat(stream=True, stream_options={"include_obfuscation": False})
    with pytest.raises(InvalidRequest) as caught:
        chat(stream=True, stream_options={"include_obfuscation": True})
    assert caught.value.param == "stream_options.include_obfuscation"


def test_metadata_and_hints_are_accepted() -> None:
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
def test_stop_strings_are_always_a_list(stop: Any, strings: list[str]) -> None:
    assert chat(stop=stop).stop_strings == strings


@pytest.mark.parametrize("seed", [-(2**63), 0, 2**63 - 1])
def test_a_seed_is_any_64_bit_integer(seed: int) -> None:
    assert chat(seed=seed).seed == seed


@pytest.mark.parametrize("key", ["", "-1", "abc", "1.5", "+3", "٣", str(2**31), "9" * 5000])
def test_a_bias_on_an_invalid_token_id_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(logit_bias={key: 1})
    assert caught.value.param == "logit_bias"


def test_biases_are_by_token_id() -> None:
    assert chat(logit_bias={"5": 1, "0": -100}).biases == {5: 1.0, 0: -100.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"5": 101}),
        ("logit_bias", {str(token): 1 for token in range(5000)}),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("min_tokens", -1),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [2**31]),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**{name: value})
    assert caught.value.param is not None
    assert caught.value.param.startswith(name)


@pytest.mark.parametrize(
    ("last", "allowed"),
    [
        ({"role": "assistant", "content": "Once"}, True),
        ({"role": "user", "content": "Once"}, False),
        ({"role": "assistant", "content": ""}, False),
    ],
)
def test_only_an_assistant_message_can_be_continued(last: dict[str, Any], allowed: bool) -> None:
    messages = [*CHAT["messages"], last]
    if allowed:
        chat(messages=messages, continue_final_message=True)
        return
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=messages, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


@pytest.mark.parametrize("fields", [{"prompt": [1, 2]}, {"echo": True}])
def test_a_suffix_requires_a_prompt_of_text(fields: dict[str, Any]) -> None:
    text(suffix="end")
    text(suffix="", **fields)
    with pytest.raises(InvalidRequest) as caught:
        text(suffix="end", **fields)
    assert caught.value.param == "suffix"
