"""Unknown fields: dropped where they change nothing, else refused or ignored by the setting."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.http.decoding import Decoded, DecodingRules, decode_body
from service.http.unknown_fields import MAX_KEPT, UnknownFields, header_of
from service.schema.annotations import NEUTRAL_VALUES, REFUSED_KEYS
from service.schema.chat import ChatRequest
from service.schema.rerank import RerankRequest

DECODER = msgspec.json.Decoder(ChatRequest)
USER = {"role": "user", "content": "x"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
# The others are honoured here.
UNKNOWN = sorted(NEUTRAL_VALUES.keys() - set(ChatRequest.__struct_fields__))
MODES: list[UnknownFields] = ["messages", "refuse", "warn"]


def chat(mode: UnknownFields = "messages", /, **fields: Any) -> Decoded[ChatRequest]:
    body = json.dumps({"model": "m", "messages": [USER], **fields}).encode()
    return decode_body(body, DECODER, DecodingRules(mode))


def refusal(mode: UnknownFields = "messages", /, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(mode, **fields)
    return caught.value


NOTHING: list[Any] = [None, "", [], {}, {"a": None}, {"a": None, "b": None}]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", NOTHING)
def test_an_unknown_value_that_says_nothing_is_taken_anywhere(
    mode: UnknownFields, value: Any
) -> None:
    part = {"type": "text", "text": "x"}
    plain = chat(messages=[{"role": "user", "content": [part]}], tools=[TOOL])
    odd = {"zz": value}
    decoded = chat(
        mode,
        messages=[{"role": "user", "content": [part | odd], **odd}],
        tools=[TOOL | odd],
        **odd,
    )
    assert decoded == plain


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_field_of_another_server_that_is_off_is_taken(mode: UnknownFields, name: str) -> None:
    for value in NEUTRAL_VALUES[name]:
        assert chat(mode, **{name: value}) == chat()


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_field_of_another_server_that_is_on_is_refused(name: str) -> None:
    for value in NEUTRAL_VALUES[name]:
        other = (not value) if isinstance(value, bool) else f"{value}x"
        assert refusal(**{name: other}).param == name
        assert refusal(**{name: [value]}).param == name
    # One is no true, and 0 is no false.
    if isinstance(value, bool):
        assert refusal(**{name: int(value)}).param == name
    assert refusal(tools=[TOOL | {name: value}]).param == f"tools[0].{name}"


@pytest.mark.parametrize("value", [0, False, "x", [None], {"a": 0}, {"a": {}}])
def test_an_unknown_value_that_says_something_is_refused(value: Any) -> None:
    assert refusal("refuse", zz=value).param == "zz"
    assert refusal("messages", zz=value).param == "zz"


@pytest.mark.parametrize("mode", MODES)
def test_what_clients_add_to_replayed_messages_is_a_label(mode: UnknownFields) -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "x", "cache_control": {"t": 1}}]},
        USER | {"id": "msg_1", "cache_control": {"type": "ephemeral"}},
        {
            "role": "assistant",
            "content": "",
            "name": "model",
            "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
            "provider_specific_fields": {"a": 1},
            "tool_calls": [CALL | {"index": 0, "provider_specific_fields": {"a": 1}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "x", "name": "f"},
    ]
    request, ignored = chat(mode, messages=messages, tools=[TOOL | {"cache_control": {"t": 1}}])
    assert ignored == []
    assert [message.content for message in request.messages[1:]] == ["x", "", "x"]


def test_an_unknown_key_of_a_message_is_ignored_and_named_once() -> None:
    part = {"type": "text", "text": "x", "odd": 1}
    messages = [USER, USER | {"zz": 1}, USER | {"zz": 2}, {"role": "user", "content": [part]}]
    request, ignored = chat(messages=messages)
    assert ignored == ["messages[1].zz", "messages[3].content[0].odd"]
    assert request == chat(messages=[*[USER] * 3, {"role": "user", "content": [TEXT]}]).request


TEXT = {"type": "text", "text": "x"}


def test_the_other_modes_refuse_or_ignore_all_unknown_fields() -> None:
    assert refusal("refuse", messages=[USER | {"zz": 1}]).param == "messages[0].zz"
    assert chat("warn", messages=[USER | {"zz": 1}], top=1).ignored == ["messages[0].zz", "top"]


@pytest.mark.parametrize("key", sorted(REFUSED_KEYS))
def test_a_key_that_changes_answers_elsewhere_is_refused_with_advice(key: str) -> None:
    assistant = {"role": "assistant", "content": "x", key: True}
    error = refusal(messages=[USER, assistant])
    assert (error.param, error.code) == (f"messages[1].{key}", "unsupported_parameter")
    assert REFUSED_KEYS[key] in error.message
    assert chat(messages=[USER, assistant | {key: False}]).ignored == []


@pytest.mark.parametrize("first", ["type", "image_url"])
def test_an_image_is_refused_in_words_that_say_text_only(first: str) -> None:
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:,"}}
    part = {first: image[first], **image}
    for role in ("user", "system", "assistant"):
        error = refusal(messages=[{"role": role, "content": [part]}])
        assert error.param == "messages[0].content[0].type"
        assert "only text" in error.message


def test_a_key_that_looks_like_the_path_of_a_message_is_none() -> None:
    assert refusal(**{"messages[0].zz": 1}).param == "messages[0].zz"


@given(st.lists(st.text(max_size=300), max_size=40))
def test_the_header_is_short_and_has_only_safe_characters(names: list[str]) -> None:
    value = header_of(names)
    assert len(value) <= 256
    shown = value.split(", ") if value else []
    assert len(shown) <= 16
    assert all(re.fullmatch(r"[A-Za-z0-9_.\[\]-]*", name) for name in shown)


def test_the_header_has_the_names_as_they_are_if_they_are_safe() -> None:
    assert header_of(["messages[1].zz", "store"]) == "messages[1].zz, store"


def test_of_any_number_of_ignored_fields_some_are_kept() -> None:
    odd = {f"u{number}": 1 for number in range(2 * MAX_KEPT)}
    ignored = chat(messages=[USER | odd]).ignored
    assert ignored == [f"messages[0].u{number}" for number in range(MAX_KEPT)]


RERANK_DECODER = msgspec.json.Decoder(RerankRequest)


def rerank(*documents: Any) -> Decoded[RerankRequest]:
    body = json.dumps({"query": "q", "documents": documents}).encode()
    return decode_body(body, RERANK_DECODER)


@pytest.mark.parametrize("value", NOTHING)
def test_an_unknown_field_below_a_described_field_is_treated_as_any(value: Any) -> None:
    assert rerank("a", {"text": "b", "zz": value}) == rerank("a", {"text": "b"})
    with pytest.raises(InvalidRequest) as caught:
        rerank("a", {"text": "b", "zz": 1})
    assert (caught.value.param, caught.value.code) == ("documents[1].zz", "unknown_parameter")
