"""Every documented field of a request changes what the worker gets, is a label, or is refused.

The fields of OpenAI's API are those of the `openai` package's types, at any depth. Those of
other servers are recorded in `foreign_fields`.
"""

from __future__ import annotations

import collections.abc
import json
from collections.abc import Iterator
from typing import (
    Any,
    Literal,
    NamedTuple,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from service.api.chat.format import ChatFormat
from service.api.completions.format import CompletionFormat
from service.errors import InvalidRequest
from service.generation.dialect import Dialect
from service.http.decoding import decode_body
from service.schema.annotations import LABELS
from service.schema.parameter_table import PARAMETERS
from tests.contract import foreign_fields

USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f"}}
MOST_DEPTH = 16
BASES: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [USER], "seed": 7, "stream": True},
    "text": {"model": "m", "prompt": "x", "seed": 7, "stream": True},
}
DIALECTS: dict[str, Dialect[Any]] = {"chat": ChatFormat(), "text": CompletionFormat()}
PARAMS = {"chat": ChatParams, "text": TextParams}
# What a field needs beside it to have an effect.
PARTNERS: dict[str, dict[str, Any]] = {
    "best_of": {"stream": False},
    "continue_final_message": {"messages": [USER, {"role": "assistant", "content": "x"}]},
    "function_call": {"functions": [{"name": "f"}]},
    "parallel_tool_calls": {"tools": [TOOL]},
    "repetition_context_size": {"repetition_penalty": 1.5},
    "tool_choice": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True},
}
# Values that are what leaving the field out means.
DEFAULTS: dict[str, list[Any]] = {
    "echo": [False],
    "function_call": ["auto"],
    "logprobs": [False],
    "parallel_tool_calls": [True],
    "response_format": [{"type": "text"}],
    "skip_special_tokens": [True],
    "stream_options.include_usage": [False],
    "tool_choice": ["auto"],
}


class Step(NamedTuple):
    """A value without and with one field: the field's place and key."""

    before: Any
    after: Any
    place: str
    key: str


def samples(shape: Any, depth: int = 0) -> list[Any]:
    """Values of a type: all of a literal, else one that is not the default."""
    origin, arguments = get_origin(shape), get_args(shape)
    if depth > MOST_DEPTH or shape is type(None):
        return []
    if origin is Literal:
        return list(arguments)
    if origin is Union or type(shape).__name__ == "UnionType":
        return [value for each in arguments for value in samples(each, depth + 1)]
    if origin is dict:
        return [{"5": value} for value in samples(arguments[1], depth + 1)]
    if is_list(shape):
        return [[value] for value in samples(arguments[0], depth + 1)]
    if is_typed_dict(shape):
        return [smallest(shape, depth)]
    simple: dict[Any, list[Any]] = {bool: [True, False], int: [3], float: [0.25], str: ["x"]}
    return simple.get(shape, [{"type": "object"}])


def is_list(shape: Any) -> bool:
    origin = get_origin(shape)
    lists = (list, collections.abc.Iterable, collections.abc.Sequence)
    return origin in lists or getattr(origin, "__name__", "") == "SequenceNotStr"


def smallest(shape: Any, depth: int) -> dict[str, Any]:
    """An object with only the required fields."""
    return {
        key: samples(hint, depth + 1)[0]
        for key, hint in get_type_hints(shape).items()
        if key in required_keys(shape)
    }


def required_keys(shape: Any) -> set[str]:
    # `__required_keys__` is not right for types whose annotations are strings.
    hints = get_type_hints(shape, include_extras=True)
    marked = {key for key, hint in hints.items() if get_origin(hint) is Required}
    return marked | (set(hints) if shape.__total__ else set())


def is_typed_dict(shape: Any) -> bool:
    # Those of typing_extensions are no TypedDict for `typing.is_typeddict`.
    return isinstance(shape, type) and hasattr(shape, "__total__")


def steps(shape: Any, depth: int = 0) -> Iterator[Step]:
    """Each optional field of each object in a type, set to each of its values."""
    arguments = get_args(shape)
    if depth > MOST_DEPTH:
        return
    if is_typed_dict(shape):
        base = smallest(shape, depth)
        for key, hint in get_type_hints(shape).items():
            yield from steps_of_field(base, key, hint, depth, is_new=key not in base)
    elif is_list(shape):
        for step in steps(arguments[0], depth + 1):
            yield Step([step.before], [step.after], f"[]{step.place}", step.key)
    elif get_origin(shape) is Union or type(shape).__name__ == "UnionType":
        for each in arguments:
            yield from steps(each, depth + 1)


def steps_of_field(
    base: dict[str, Any], key: str, hint: Any, depth: int, *, is_new: bool
) -> Iterator[Step]:
    if is_new:
        for value in samples(hint, depth):
            yield Step(base, {**base, key: value}, "", key)
    for step in steps(hint, depth + 1):
        place = f".{key}{step.place}"
        yield Step({**base, key: step.before}, {**base, key: step.after}, place, step.key)


def steps_of_api(api: str) -> Iterator[Step]:
    """The steps of an endpoint's fields, with the base of its requests."""
    for key, hint in get_type_hints(PARAMS[api]).items():
        base = {**BASES[api], **PARTNERS.get(key, {})}
        for step in steps_of_field(base, key, hint, 0, is_new=key not in BASES[api]):
            yield step._replace(place=step.place.removeprefix("."))


def outcome(api: str, body: dict[str, Any]) -> Any:
    """What the worker and the encoder of the response get; None if the request is refused."""
    api_format = DIALECTS[api]
    decoder = msgspec.json.Decoder(api_format.request_type)
    try:
        request, ignored = decode_body(json.dumps(body).encode(), decoder)
    except InvalidRequest:
        return None
    assert ignored == []
    shape = [request.stream, request.include_usage, request.continuous_usage, request.choices]
    return api_format.to_submits(request, "m"), shape


def is_label(place: str, key: str) -> bool:
    """Whether the field, or an object that it lies in, is a label."""
    parts = f"{place}.{key}".removeprefix(".").split(".")
    return any(is_own_label(".".join(parts[:count]), parts[count]) for count in range(len(parts)))


def is_own_label(place: str, key: str) -> bool:
    parameter = None if place else PARAMETERS.get(key.partition("[")[0])
    places = (place, f"{place.removesuffix('[]')}[role=tool]")
    return (parameter is not None and parameter.support == "label") or any(
        key in LABELS.get(each, ()) for each in places
    )


def is_default(step: Step) -> bool:
    name = f"{step.place}.{step.key}".removeprefix(".")
    value = step.after.get(step.key) if not step.place else value_at(step.after, step)
    neutral = PARAMETERS[name].no_op_values if name in PARAMETERS else ()
    return value == {} or value in DEFAULTS.get(name, []) or value in neutral


def value_at(value: Any, step: Step) -> Any:
    for part in step.place.replace("[]", ".[]").split("."):
        value = value[0] if part == "[]" else value[part]
    return value[step.key]


def silent(api: str, found: Iterator[Step]) -> list[tuple[str, Any]]:
    """The fields that are taken and change nothing, and are neither labels nor defaults."""
    return [
        (f"{step.place}.{step.key}", step.after)
        for step in found
        if (before := outcome(api, step.before)) is not None
        and outcome(api, step.after) == before
        and not is_label(step.place, step.key)
        and not is_default(step)
    ]


@pytest.mark.parametrize("api", ["chat", "text"])
def test_no_field_of_openais_api_is_ignored_in_silence(api: str) -> None:
    assert silent(api, steps_of_api(api)) == []


@pytest.mark.parametrize("api", ["chat", "text"])
def test_the_walk_changes_and_refuses_fields_at_every_depth(api: str) -> None:
    seen = {f"{step.place}.{step.key}".removeprefix(".") for step in steps_of_api(api)}
    assert get_type_hints(PARAMS[api]).keys() - BASES[api].keys() <= seen
    if api == "chat":
        assert {
            "messages[].tool_calls",
            "messages[].content[].prompt_cache_breakpoint",
            "tools[].function.strict",
            "response_format.json_schema.description",
            "stream_options.include_usage",
            "web_search_options.user_location",
        } <= seen


def test_a_field_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMETERS, "verbosity", PARAMETERS["temperature"])
    assert {name for name, _ in silent("chat", steps_of_api("chat"))} == {".verbosity"}


@pytest.mark.parametrize("api", ["chat", "text"])
@pytest.mark.parametrize("server", ["VLLM", "LLAMA_CPP", "MLX_LM"])
def test_no_field_of_another_server_is_ignored_in_silence(api: str, server: str) -> None:
    fields: dict[str, Any] = getattr(foreign_fields, server)
    bases = ({**BASES[api], **PARTNERS.get(key, {})} for key in fields)
    found = (
        Step(base, {**base, key: value}, "", key)
        for base, (key, value) in zip(bases, fields.items(), strict=True)
    )
    assert silent(api, found) == []


@pytest.mark.parametrize("key", foreign_fields.VLLM_STRUCTURED_OUTPUTS)
def test_no_kind_of_structured_output_is_ignored_in_silence(key: str) -> None:
    value = foreign_fields.VLLM_STRUCTURED_OUTPUTS[key]
    body = {**BASES["chat"], "structured_outputs": {key: value}}
    assert outcome("chat", body) != outcome("chat", BASES["chat"])


@pytest.mark.parametrize("key", foreign_fields.MESSAGE_KEYS)
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_no_key_of_a_message_that_changes_answers_elsewhere_is_ignored(role: str, key: str) -> None:
    message = {"role": role, "content": "x", key: foreign_fields.MESSAGE_KEYS[key]}
    assert outcome("chat", {**BASES["chat"], "messages": [USER, message]}) is None
