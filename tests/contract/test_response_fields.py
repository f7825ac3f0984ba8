"""Every field of a response's request is honoured, a label or refused; new ones fail a test.

The fields are those of the `openai` package's types.
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.responses.response_input_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from service.api.responses.shapes.hosted_tools import HOSTED_KINDS
from service.api.responses.shapes.items import InputItem
from service.api.responses.shapes.parameters import PARAMETERS
from service.api.responses.shapes.request import ResponseRequest, TokenCountRequest
from service.api.responses.shapes.tools import AnyTool
from service.errors import InvalidRequest
from service.http.decoding import decode_body

BASE: dict[str, Any] = {"model": "m", "input": "x"}
USER = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
# Items of tools that OpenAI hosts, and of features that this server does not have.
REFUSED_ITEMS = {
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
}
# A value that is refused, and the parameter that the refusal names, if it is not the field.
REFUSED: list[tuple[str, Any, str]] = [
    ("access_programs", {"cyber": "standard"}, ""),
    ("background_options", {"completion_window": "2h"}, "background_options.completion_window"),
    ("context_management", [{"type": "compaction"}], ""),
    ("image", {"context_compression": "enabled"}, "image.context_compression"),
    ("include", ["everything"], "include[0]"),
    ("input", [{"type": "web_search_call", "id": "x"}], "input[0].type"),
    ("input", [{**USER, "content": [{"type": "input_image"}]}], "input[0].content[0].type"),
    ("input", [], "input"),
    ("input", [{**CALL, "async": True}], "input[0].async"),
    ("max_output_tokens", 0, ""),
    ("moderation", {"model": "x"}, ""),
    ("prompt", {"id": "pmpt_1"}, ""),
    ("prompt_cache_options", {"prewarm": True}, "prompt_cache_options.prewarm"),
    ("reasoning", {"context": "all_turns"}, "reasoning.context"),
    ("reasoning", {"mode": "pro"}, "reasoning.mode"),
    ("reasoning", {"summary": "concise"}, "reasoning.summary"),
    ("reasoning", {"effort": "huge"}, "reasoning.effort"),
    ("response_format", {"type": "json_object"}, ""),
    ("service_tier", "priority", ""),
    ("stream_options", {"include_obfuscation": True}, "stream_options.include_obfuscation"),
    ("text", {"verbosity": "high"}, "text.verbosity"),
    ("text", {"format": {"type": "grammar"}}, "text.format.type"),
    ("tool_choice", "required", ""),
    ("tool_choice", {"type": "function", "name": "absent"}, ""),
    ("tool_choice", {"type": "web_search_preview"}, ""),
    ("tools", [{**FUNCTION, "defer_loading": True}], "tools[0].defer_loading"),
    ("tools", [FUNCTION, FUNCTION], "tools[1].name"),
    ("tools", [{**FUNCTION, "strict": True}], "tools[0].parameters"),
    ("tools", [{"type": "custom", "name": "f", "format": {"type": "grammar"}}], "tools[0].format"),
    ("top_logprobs", 21, ""),
    ("truncation", "middle", ""),
    ("previous_response_id", 1, ""),
    ("conversation", {"name": "x"}, "conversation"),
    ("max_tokens", 5, ""),
    ("unknown", 5, ""),
    ("temperature", 3, ""),
]
TAKEN: list[tuple[str, Any]] = [
    ("background_options", {"completion_window": "soonest", "continuation_id": "x"}),
    ("client_metadata", {"x-codex": "1"}),
    ("context_management", []),
    ("image", {"context_compression": "auto"}),
    ("include", ["reasoning.encrypted_content", "web_search_call.action.sources"]),
    ("max_tool_calls", 3),
    ("moderation", None),
    ("prompt_cache_key", "k"),
    ("prompt_cache_options", {"comparison_response_id": "resp_1", "prewarm": False}),
    ("prompt_cache_retention", "24h"),
    ("reasoning", {"context": "auto", "mode": "standard", "summary": "auto"}),
    ("safety_identifier", "s"),
    ("service_tier", "auto"),
    ("text", {}),
    ("text", {"verbosity": "medium", "format": {"type": "text"}}),
    ("tools", [{**FUNCTION, "async": False, "allowed_callers": ["direct"], "output_schema": {}}]),
    ("tools", [{"type": kind, "anything": 1} for kind in HOSTED_KINDS]),
    ("truncation", "auto"),
    ("user", "u"),
    ("input", [{"content": "x", "role": "user"}, {"id": "msg_1"}]),
    ("input", [{"type": "reasoning", "id": "rs", "summary": [], "content": [], "status": None}]),
]


def decode(body: dict[str, Any]) -> ResponseRequest:
    """The valid request."""
    decoder = msgspec.json.Decoder(ResponseRequest)
    return decode_body(json.dumps(body).encode(), decoder).request


def tags(union: Any) -> set[str]:
    """The types of a union of structs."""
    return {str(each.__struct_config__.tag) for each in get_args(union)}


def types_of(union: Any) -> set[str]:
    """The types of a union of TypedDicts."""
    found: set[str] = set()
    for each in get_args(union):
        hint = get_type_hints(each)["type"]
        while get_args(hint) and not isinstance(get_args(hint)[0], str):
            hint = get_args(hint)[0]
        found |= set(get_args(hint))
    return found


def test_every_parameter_of_openais_is_a_field_with_a_row_in_the_table() -> None:
    names = set(get_type_hints(ResponseCreateParamsStreaming))
    assert names - set(ResponseRequest.__struct_fields__) == set()
    assert set(ResponseRequest.__struct_fields__) - set(PARAMETERS) == set()
    assert {name.partition(".")[0] for name in PARAMETERS} == set(ResponseRequest.__struct_fields__)


def test_every_parameter_of_a_count_is_a_field() -> None:
    # It sets the tone of a hosted model.
    names = set(get_type_hints(InputTokenCountParams)) - {"personality"}
    assert names - set(TokenCountRequest.__struct_fields__) == set()


@pytest.mark.parametrize("name", ["reasoning", "text", "prompt_cache_options", "image"])
def test_every_field_of_an_option_is_known(name: str) -> None:
    theirs = get_type_hints(ResponseCreateParamsStreaming)[name]
    theirs = next((each for each in get_args(theirs) if each is not type(None)), theirs)
    for key in get_type_hints(theirs):
        assert decode({**BASE, name: {key: None}}).model == "m"


def test_every_item_of_openais_is_honoured_or_refused_by_its_type() -> None:
    assert types_of(ResponseInputItemParam) == tags(InputItem) | REFUSED_ITEMS
    for kind in REFUSED_ITEMS:
        with pytest.raises(InvalidRequest) as refused:
            decode({**BASE, "input": [USER, {"type": kind, "id": "x"}]})
        assert refused.value.param == "input[1].type"


def test_every_tool_of_openais_is_offered_or_left_out() -> None:
    assert types_of(ToolParam) <= tags(AnyTool) | set(HOSTED_KINDS)


@pytest.mark.parametrize(("name", "value", "param"), REFUSED)
def test_a_refused_value_names_its_parameter(name: str, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode({**BASE, "stream": True, name: value})
    assert (refused.value.param or "").startswith(param or name)


@pytest.mark.parametrize(("name", "value"), TAKEN)
def test_a_value_that_changes_nothing_is_taken(name: str, value: Any) -> None:
    assert decode({**BASE, name: value}).model == "m"


def test_two_ways_to_go_on_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode({**BASE, "previous_response_id": "resp_1", "conversation": "conv_1"})
    assert refused.value.param == "previous_response_id"
    with pytest.raises(InvalidRequest) as refused:
        decode({"model": "m"})
    assert refused.value.param == "input"
    assert decode({"model": "m", "previous_response_id": "resp_1"}).items == []
