"""Every field of Anthropic's SDK is honoured, a label or refused: a new one fails these tests."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from anthropic.types import (
    DocumentBlockParam,
    OutputConfigParam,
    TextBlockParam,
    ThinkingBlockParam,
    ThinkingConfigEnabledParam,
    ToolChoiceAutoParam,
    ToolParam,
    ToolResultBlockParam,
    ToolUnionParam,
    ToolUseBlockParam,
)
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming

from service.api.messages import blocks
from service.api.messages.format import MessagesFormat
from service.api.messages.request import (
    PARAMETERS_OF_MESSAGES,
    CountTokensRequest,
    MessagesRequest,
    OutputConfig,
    ThinkingEnabled,
)
from service.api.messages.tools import ChooseAuto, Tool
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.store.encoded_thinking import EncodedThinking

FORMAT = MessagesFormat(EncodedThinking(lambda: b"k" * 32))
USER = {"role": "user", "content": "x"}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
BASE: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [USER], "seed": 7}
# Each object of a request, and the struct that reads it.
OBJECTS: list[tuple[Any, type[msgspec.Struct]]] = [
    (MessageCreateParamsStreaming, MessagesRequest),
    (MessageCountTokensParams, CountTokensRequest),
    (TextBlockParam, blocks.TextBlock),
    (ThinkingBlockParam, blocks.ThinkingBlock),
    (ToolUseBlockParam, blocks.ToolUseBlock),
    (ToolResultBlockParam, blocks.ToolResultBlock),
    (DocumentBlockParam, blocks.DocumentBlock),
    (ToolParam, Tool),
    (ToolChoiceAutoParam, ChooseAuto),
    (ThinkingConfigEnabledParam, ThinkingEnabled),
    (OutputConfigParam, OutputConfig),
]
# A value of each parameter that is honoured, which changes what the worker gets.
HONOURED: dict[str, dict[str, Any]] = {
    "chat_template_kwargs": {"chat_template_kwargs": {"a": 1}},
    "frequency_penalty": {"frequency_penalty": 1},
    "ignore_eos": {"ignore_eos": True},
    "logit_bias": {"logit_bias": {"5": 1}},
    "max_tokens": {"max_tokens": 3},
    "messages": {"messages": [USER, USER]},
    "min_p": {"min_p": 0.5},
    "min_tokens": {"min_tokens": 2},
    "priority": {"priority": 2},
    "output_config": {"output_config": {"effort": "low"}},
    "output_config.effort": {"output_config": {"effort": "max"}},
    "output_config.format": {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    "output_format": {"output_format": {"type": "json_schema", "schema": {}}},
    "presence_penalty": {"presence_penalty": 1},
    "repetition_context_size": {"repetition_context_size": 4},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "seed": {"seed": 8},
    "skip_special_tokens": {"skip_special_tokens": False},
    "stop_sequences": {"stop_sequences": ["a"]},
    "stop_token_ids": {"stop_token_ids": [1]},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
    "system": {"system": "Be brief."},
    "temperature": {"temperature": 0.5},
    "thinking": {"thinking": {"type": "disabled"}},
    "tool_choice": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "tools": {"tools": [TOOL]},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.5},
}
# These change the answer's shape, the model that answers, or nothing at their only values.
ELSEWHERE = ("context_management", "model", "stream")
REFUSED: dict[str, Any] = {
    "container": {"id": "c"},
    "inference_geo": "eu",
    "mcp_servers": [{"type": "url"}],
    "service_tier": "priority",
    "speed": "fast",
}
LABELS: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"},
    "diagnostics": {"previous_message_id": "msg_1"},
    "metadata": {"user_id": "u"},
    "user_profile_id": "p",
    "workspace_id": "w",
}


def submitted(**fields: Any) -> Any:
    decoder = msgspec.json.Decoder(MessagesRequest)
    body = json.dumps({**BASE, **fields}).encode()
    return FORMAT.to_submits(decode_body(body, decoder).request, "m")


@pytest.mark.parametrize(("sdk", "struct"), OBJECTS, ids=lambda kind: kind.__name__)
def test_every_field_of_the_sdk_is_known(sdk: Any, struct: type[msgspec.Struct]) -> None:
    config = struct.__struct_config__
    unread = {field for field in get_type_hints(sdk) if field != config.tag_field}
    assert unread - set(struct.__struct_fields__) == set()


def test_every_field_of_a_request_has_a_row_in_the_table() -> None:
    own = {name.partition(".")[0] for name in PARAMETERS_OF_MESSAGES}
    assert own == set(MessagesRequest.__struct_fields__)


def test_every_row_of_the_table_is_tested() -> None:
    by_support: dict[str, set[str]] = {"honoured": set(), "label": set(), "refused": set()}
    for name, parameter in PARAMETERS_OF_MESSAGES.items():
        by_support[parameter.support].add(name)
    assert by_support["honoured"] == {*HONOURED, *ELSEWHERE}
    assert by_support["label"] == set(LABELS)
    assert by_support["refused"] == set(REFUSED)


@pytest.mark.parametrize("name", HONOURED)
def test_an_honoured_parameter_changes_what_the_worker_gets(name: str) -> None:
    if name == "repetition_context_size":
        assert submitted(repetition_penalty=1.5, **HONOURED[name]) != submitted(
            repetition_penalty=1.5
        )
    elif name == "tool_choice":
        assert submitted(**HONOURED[name]) != submitted(tools=[TOOL])
    else:
        assert submitted(**HONOURED[name]) != submitted()


@pytest.mark.parametrize("name", LABELS)
def test_a_label_changes_nothing(name: str) -> None:
    assert submitted(**{name: LABELS[name]}) == submitted()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_parameter_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submitted(**{name: REFUSED[name]})
    assert caught.value.param == name
    for neutral in PARAMETERS_OF_MESSAGES[name].no_op_values:
        assert submitted(**{name: neutral}) == submitted()


TYPED_TOOLS = [
    get_args(get_type_hints(tool)["type"])[0]
    for tool in get_args(ToolUnionParam)
    if tool is not ToolParam
]


@pytest.mark.parametrize("kind", TYPED_TOOLS)
def test_a_tool_of_another_type_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submitted(tools=[TOOL, {"type": kind, "name": "x", "max_uses": 1}])
    assert caught.value.param == "tools[1].type"


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "x"}
HTML = {"type": "text", "media_type": "text/html", "data": "x"}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t"}


def asks(*content: Any) -> list[Any]:
    """A conversation whose last message has these blocks."""
    return [USER, CALL, {"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"messages": asks(IMAGE)}, "messages[2].content[0].type", "no images"),
        (
            {"messages": asks({**RESULT, "content": [IMAGE]})},
            "messages[2].content[0].content[0].type",
            "no images",
        ),
        (
            {"messages": asks({"type": "document", "source": PDF})},
            "messages[2].content[0].source.type",
            "files",
        ),
        (
            {"messages": asks({"type": "document", "source": HTML})},
            "messages[2].content[0].source.media_type",
            "only text",
        ),
        ({"system": [IMAGE]}, "system[0].type", "no images"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tools[0].type",
            "tools that the client runs",
        ),
    ],
)
def test_what_is_no_text_is_refused_in_words(body: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submitted(**body)
    assert caught.value.param == param
    assert words in caught.value.message
