from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.responses.shapes.request import ResponseRequest
from service.errors import InvalidRequest
from service.http.decoding import DecodingRules, decode_body
from service.http.unknown_fields import UnknownFields
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest

CHAT = msgspec.json.Decoder(ChatRequest)
COMPLETION = msgspec.json.Decoder(CompletionRequest)
RESPONSE = msgspec.json.Decoder(ResponseRequest)
MODES: st.SearchStrategy[UnknownFields] = st.sampled_from(["messages", "refuse", "warn"])
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def chat(unknown_fields: UnknownFields = "refuse", /, **fields: Any) -> ChatRequest:
    body = json.dumps(HELLO | fields).encode()
    return decode_body(body, CHAT, DecodingRules(unknown_fields)).request


def raw(fields: bytes) -> bytes:
    """A valid chat body with the raw text `fields` added to it."""
    return json.dumps(HELLO).encode()[:-1] + b"," + fields + b"}"


def refusal(body: bytes, unknown_fields: UnknownFields = "refuse") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, CHAT, DecodingRules(unknown_fields))
    assert len(caught.value.message) <= 300
    assert caught.value.message.isprintable()
    return caught.value


def refused_fields(**fields: Any) -> tuple[str | None, str | None]:
    error = refusal(json.dumps(HELLO | fields).encode())
    return error.param, error.code


def test_a_valid_body_becomes_a_typed_request() -> None:
    request = chat(temperature=0, stop="\n")
    assert request.model == "m"
    assert request.messages[0].content == "hello"
    assert request.temperature == 0.0
    assert request.stop_strings == ["\n"]


GOOD = json.dumps(HELLO).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(GOOD[:-1], id="truncated"),
        pytest.param(GOOD[: len(GOOD) // 2], id="truncated in a string"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="byte order mark"),
        pytest.param(GOOD.decode().encode("utf-16"), id="utf-16"),
        pytest.param(GOOD + b"x", id="trailing garbage"),
        pytest.param(GOOD + GOOD, id="two documents"),
        pytest.param(GOOD + b"// comment", id="comment"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"42", id="number"),
        pytest.param(b"'single'", id="single quotes"),
        pytest.param(GOOD[:-1] + b",}", id="trailing comma"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused_without_a_param(body: bytes) -> None:
    assert refusal(body).param is None


@pytest.mark.parametrize("depth", [100, 1_000, 100_000, 5_000_000])
@pytest.mark.parametrize("where", [b"%s", b'{"tools": %s}', b'{"zz": %s}'])
@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_deep_nesting_is_refused(depth: int, where: bytes, mode: UnknownFields) -> None:
    refusal(where % (b"[" * depth + b"]" * depth), mode)
    refusal(where % (b'{"a":' * depth + b"1" + b"}" * depth), mode)
    refusal(where % (b"[" * depth), mode)


@pytest.mark.parametrize("depth", [65, 100, 500])
def test_free_form_values_have_a_depth_limit_of_their_own(depth: int) -> None:
    error = refusal(raw(b'"audio":{"type":' + b"[" * depth + b"]" * depth + b"}"))
    assert error.param == "audio"
    assert error.code == "invalid_value"
    assert "nested deeper" in error.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(raw(b'"user":"\xff"'), id="value"),
        pytest.param(raw(b'"\xff":1'), id="key"),
        pytest.param(raw(b'"zz":"\xff"'), id="unknown field"),
        pytest.param(raw(b'"zz":{"\xff":[]}'), id="key in an unknown field"),
        pytest.param(raw(b'"user":"\xc0\xaf"'), id="overlong"),
        pytest.param(raw(b'"user":"\xed\xa0\x80"'), id="encoded surrogate"),
        pytest.param(raw(b'"user":"\\ud800"'), id="high surrogate"),
        pytest.param(raw(b'"user":"\\udc00"'), id="low surrogate"),
        pytest.param(raw(b'"\\ud800":1'), id="surrogate in a key"),
        pytest.param(raw(b'"zz":"\\ud800"'), id="surrogate in an unknown field"),
        pytest.param(raw(b'"user":"a\x01b"'), id="raw control character"),
    ],
)
@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_invalid_unicode_is_refused(body: bytes, mode: UnknownFields) -> None:
    refusal(body, mode)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
@pytest.mark.parametrize("name", [b"temperature", b"seed", b"zz"])
@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_numbers_that_are_not_finite_are_refused(
    name: bytes, number: bytes, mode: UnknownFields
) -> None:
    error = refusal(raw(b'"%s":%s' % (name, number)), mode)
    if b"1e" in number:
        assert error.param == name.decode()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (b'"temperature":1e400,"zz":1', "temperature"),
        (b'"zz":1,"top_p":-1e400', "top_p"),
        (b'"zz":{"a":[1e400]}', "zz"),
        (b'"metadata":{"a":1e400}', "metadata"),
    ],
)
@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_a_number_out_of_range_is_refused_by_its_field_beside_unknown_ones_too(
    fields: bytes, name: str, mode: UnknownFields
) -> None:
    error = refusal(raw(fields), mode)
    assert error.param in (name, f"{name}.a")
    assert "out of range" in error.message


@pytest.mark.parametrize("name", ["temperature", "max_output_tokens", "metadata", "zz"])
def test_a_request_that_is_completed_is_refused_by_its_field_too(name: str) -> None:
    body = f'{{"model": "m", "input": "hi", "{name}": 1e400}}'.encode()
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, RESPONSE)
    assert caught.value.param == name


@pytest.mark.parametrize("digits", [20, 400, 4_300, 5_000, 1_000_000])
@pytest.mark.parametrize("name", [b"seed", b"max_tokens", b"temperature", b"top_k"])
@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_huge_integers_are_refused_by_name(digits: int, name: bytes, mode: UnknownFields) -> None:
    error = refusal(raw(b'"%s":%s' % (name, b"9" * digits)), mode)
    assert error.param == name.decode()


@pytest.mark.parametrize("mode", ["messages", "refuse", "warn"])
def test_numbers_in_strings_are_refused(mode: UnknownFields) -> None:
    for text in ("1", "nan", "inf", "1e3"):
        error = refusal(json.dumps(HELLO | {"temperature": text, "zz": 1}).encode(), mode)
        assert mode == "refuse" or error.code == "invalid_type"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "decimal_below_min_value"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"temperature": "warm"}, "temperature", "invalid_type"),
        ({"top_p": -1}, "top_p", "decimal_below_min_value"),
        ({"top_p": 2}, "top_p", "decimal_above_max_value"),
        ({"top_k": -2}, "top_k", "integer_below_min_value"),
        ({"min_p": 1.1}, "min_p", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"stop": ""}, "stop", "string_below_min_length"),
        ({"stop": "x" * 2_000}, "stop", "string_above_max_length"),
        ({"stop": ["a"] * 65}, "stop", "array_above_max_length"),
        ({"stop": ["a" * 1000] * 20}, "stop", "string_above_max_length"),
        ({"stop": ["a", ""]}, "stop[1]", "string_below_min_length"),
        ({"stop": [5]}, "stop[0]", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"logit_bias": {"5": "x"}}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
        ({"metadata": {"a" * 65: "b"}}, "metadata", "string_above_max_length"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"model": None}, "model", "invalid_type"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "array_below_min_length"),
        ({"messages": [5]}, "messages[0]", "invalid_type"),
    ],
)
def test_an_invalid_value_is_refused_by_name_and_code(
    fields: dict[str, Any], param: str, code: str
) -> None:
    assert refused_fields(**fields) == (param, code)


USER: dict[str, Any] = {"role": "user", "content": "x"}


MISSING, WRONG_TYPE, WRONG = "missing_required_parameter", "invalid_type", "invalid_value"
UNKNOWN, EMPTY = "unknown_parameter", "array_below_min_length"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"content": "x"}, "role", MISSING),
        ({"role": "user"}, "content", MISSING),
        ({"role": "tool", "content": "x"}, "tool_call_id", MISSING),
        ({"role": "wizard", "content": "x"}, "role", WRONG),
        ({"role": "developers", "content": "x", "name": "f"}, "role", WRONG),
        ({"role": 5, "content": "x"}, "role", WRONG_TYPE),
        (USER | {"content": None}, "content", WRONG_TYPE),
        (USER | {"content": 5}, "content", WRONG_TYPE),
        (USER | {"content": {}}, "content", WRONG_TYPE),
        (USER | {"content": []}, "content", EMPTY),
        (USER | {"content": [{"type": "image_url", "image_url": {}}]}, "content[0].type", WRONG),
        (USER | {"content": [{"text": "x"}]}, "content[0].type", MISSING),
        (USER | {"content": [{"type": "text"}]}, "content[0].text", MISSING),
        (USER | {"content": [{"type": "text", "text": "x", "zz": 1}]}, "content[0].zz", UNKNOWN),
        (USER | {"zz": 1}, "zz", UNKNOWN),
        (USER | {"tool_calls": [CALL]}, "tool_calls", UNKNOWN),
        ({"role": "assistant", "content": [{"text": "x"}]}, "content[0].type", MISSING),
        ({"role": "assistant", "content": [{"type": "audio"}]}, "content[0].type", WRONG),
        ({"role": "assistant", "tool_calls": []}, "content", MISSING),
        ({"role": "assistant", "content": []}, "content", EMPTY),
        (
            {"role": "assistant", "reasoning_content": "a", "reasoning": "b"},
            "reasoning",
            WRONG,
        ),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls[0].type", MISSING),
        (
            {"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]},
            "tool_calls[0].type",
            WRONG,
        ),
        ({"role": "assistant"}, "content", MISSING),
        ({"role": "- at `$.evil`", "content": "x"}, "role", WRONG),
        ({"role": "x' - at `$.evil`", "content": "x"}, "role", WRONG),
        (USER | {"k` - at `$.evil": 1}, "k` - at `$.evil", UNKNOWN),
    ],
)
def test_an_invalid_message_is_refused_at_its_path(
    message: dict[str, Any], param: str, code: str
) -> None:
    assert refused_fields(messages=[USER, message]) == (f"messages[1].{param}", code)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_required_parameter_is_refused_by_name(name: str) -> None:
    body = {key: value for key, value in HELLO.items() if key != name}
    error = refusal(json.dumps(body).encode())
    assert (error.param, error.code) == (name, "missing_required_parameter")


def test_a_role_of_a_megabyte_gives_a_short_message() -> None:
    error = refusal(json.dumps(HELLO | {"messages": [{"role": "r\n" * 500_000}]}).encode())
    assert error.param == "messages[0].role"


def test_an_unknown_field_of_a_megabyte_gives_a_short_message() -> None:
    error = refusal(json.dumps(HELLO | {"k\n" * 500_000: 1}).encode())
    assert error.code == "unknown_parameter"
    assert error.param is not None
    assert len(error.param) <= 300


def test_an_unknown_field_is_refused_by_name() -> None:
    assert refused_fields(zz=1) == ("zz", "unknown_parameter")


def test_an_unknown_field_named_like_an_error_text_is_refused_by_its_own_name() -> None:
    name = "x` - at `$.stream_options"
    assert refused_fields(**{name: 1}) == (name, "unknown_parameter")


def test_an_unknown_field_of_an_overwritten_value_has_no_effect() -> None:
    body = b'{"messages":[{"role":"user","content":"x","zz":1}],' + GOOD[1:]
    assert decode_body(body, CHAT, DecodingRules("refuse")) == (chat(), [])


def test_the_last_value_of_a_repeated_key_is_used() -> None:
    assert decode_body(raw(b'"seed":1,"seed":2'), CHAT).request.seed == 2


def test_null_is_the_same_as_leaving_a_parameter_out() -> None:
    optional = set(ChatRequest.__struct_fields__) - set(HELLO)
    assert chat(**dict.fromkeys(optional)) == chat()


# ---------------------------------------------------------------- unknown fields in warn mode


def test_in_warn_mode_unknown_fields_are_dropped_at_any_depth() -> None:
    part = {"type": "text", "text": "hello", "deep": {"er": []}}
    messages = [{"role": "user", "content": [part], "zz": 1}]
    request = chat("warn", messages=messages, extra=None, stream=True, stream_options={"odd": 1})
    known = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert request == chat(messages=known, stream=True, stream_options={})


def test_in_warn_mode_each_unknown_field_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    messages = [{"role": "user", "content": "x", "zz": i} for i in range(5)]
    chat("warn", messages=messages, top=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert {record.args for record in caplog.records} == {("messages[].zz",), ("top",)}


def test_in_warn_mode_many_unknown_fields_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat("warn", **{f"unknown\n{i}": i for i in range(10_000)})
    assert len(caplog.records) < 20
    assert all(len(record.getMessage()) < 200 for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_in_warn_mode_a_field_of_another_role_is_unknown() -> None:
    messages = [{"role": "user", "content": "x", "refusal": "r"}]
    assert chat("warn", messages=messages) == chat(messages=[USER])


def test_in_warn_mode_an_invalid_value_is_still_refused() -> None:
    error = refusal(json.dumps(HELLO | {"zz": 1, "temperature": 9}).encode(), "warn")
    assert (error.param, error.code) == ("temperature", "decimal_above_max_value")


def test_in_warn_mode_an_unsupported_parameter_is_still_refused() -> None:
    error = refusal(json.dumps(HELLO | {"zz": 1, "audio": {}}).encode(), "warn")
    assert (error.param, error.code) == ("audio", "unsupported_parameter")


# ---------------------------------------------------------------- arbitrary input


def check_decodes_or_refuses(body: bytes, mode: UnknownFields) -> None:
    """Decode `body`; only `InvalidRequest` may be raised."""
    with contextlib.suppress(InvalidRequest):
        decode_body(body, CHAT, DecodingRules(mode))
    with contextlib.suppress(InvalidRequest):
        decode_body(body, COMPLETION, DecodingRules(mode))


@given(st.binary(), MODES)
def test_any_bytes_are_decoded_or_refused(body: bytes, mode: UnknownFields) -> None:
    check_decodes_or_refuses(body, mode)


@given(st.binary(max_size=20), st.integers(0, len(GOOD)), MODES)
def test_a_body_with_any_bytes_inserted_is_decoded_or_refused(
    noise: bytes, at: int, mode: UnknownFields
) -> None:
    check_decodes_or_refuses(GOOD[:at] + noise + GOOD[at:], mode)


NAMES = st.sampled_from(
    [*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, "role", "content", "zz"]
) | st.text(max_size=5)
WORDS = st.sampled_from(["user", "assistant", "tool", "text", "type", "function", "auto"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5), MODES)
def test_any_json_is_decoded_or_refused(fields: dict[str, Any], mode: UnknownFields) -> None:
    for document in (fields, HELLO | fields, HELLO | {"prompt": "x"} | fields):
        check_decodes_or_refuses(json.dumps(document).encode(), mode)
