"""Example calls in every family's syntax, and a parser of whole answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.models import llama
from worker.outputs.detokenizer import ByteDetokenizer
from worker.outputs.segmenter import Markers, Segmenter
from worker.outputs.text import Text
from worker.tool_calls.bare_json import BARE_JSON_SYNTAX
from worker.tool_calls.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
from worker.tool_calls.formats import make_syntax
from worker.tool_calls.parser import CompiledSyntax
from worker.tool_calls.syntax import CallSyntax

THINK = Markers("<think>", "</think>")

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in ("get_weather", "get")
]

CITY = '{"city": "Paris"}'
BOTH = '{"city": "Paris", "days": 2}'

# mlx-lm's parser -> a section with one call of get_weather for two days in Paris.
SECTIONS = {
    "function_gemma": "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}"
    "<end_function_call>",
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>',
    "glm47": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    "json_tools": '<tool_call>\n{"name": "get_weather", "arguments": ' + BOTH + "}\n</tool_call>",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    f"<|tool_call_argument_begin|>{BOTH}<|tool_call_end|><|tool_calls_section_end|>",
    "kimi_k3": '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
    '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="number"<|sep|>2<|close|>argument<|sep|>'
    "<|close|>call<|sep|><|close|>tools<|sep|>",
    "laguna": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    "longcat": "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n"
    "<longcat_arg_value>Paris</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n"
    "<longcat_arg_value>2</longcat_arg_value>\n</longcat_tool_call>",
    "minicpm5": '<function name="get_weather"><param name="city">Paris</param>'
    '<param name="days">2</param></function>',
    "minimax_m2": '<minimax:tool_call>\n<invoke name="get_weather">\n'
    '<parameter name="city">Paris</parameter>\n<parameter name="days">2</parameter>\n'
    "</invoke>\n</minimax:tool_call>",
    "mistral": f"[TOOL_CALLS]get_weather[ARGS]{BOTH}",
    "muse_spark": '<atem:function_calls>\n<atem:invoke name="get_weather">\n'
    '<atem:parameter name="city">Paris</atem:parameter>\n'
    '<atem:parameter name="days">2</atem:parameter>\n'
    "</atem:invoke>\n</atem:function_calls>",
    "pythonic": '<|tool_call_start|>[get_weather(city="Paris", days=2)]<|tool_call_end|>',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
    "llama": '{"name": "get_weather", "parameters": ' + BOTH + "}",
    "llama tagged": '<|python_tag|>{"name": "get_weather", "parameters": ' + BOTH + "}",
    "llama built-in": '<|python_tag|>get_weather.call(city="Paris", days=2)',
    "mistral list": '[TOOL_CALLS] [{"name": "get_weather", "arguments": ' + BOTH + "}]",
}


def syntaxes_of(family: str) -> Sequence[CallSyntax]:
    """The syntaxes of a family, by its key in `SECTIONS`."""
    if family.startswith("llama"):
        return (BARE_JSON_SYNTAX, llama.TAGGED)
    return (make_syntax(family.split()[0]),)


@dataclass
class ParsedAnswer:
    """All deltas of an answer, joined."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    has_tool_calls: bool = False

    def add(self, deltas: Sequence[OutputDelta]) -> None:
        for delta in deltas:
            match delta:
                case ContentDelta(text, "content"):
                    self.content += text
                case ContentDelta(text):
                    self.reasoning += text
                case ToolCallStart(index, name):
                    assert index == len(self.calls)
                    self.calls.append((name, ""))
                case ToolCallArguments(index, text):
                    assert index == len(self.calls) - 1
                    self.calls[index] = (self.calls[index][0], self.calls[index][1] + text)

    @property
    def values(self) -> list[tuple[str, Any]]:
        """The calls with their arguments decoded."""
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def make_text(
    syntaxes: Sequence[CallSyntax] = (),
    *,
    stop: Sequence[str] = (),
    parallel: bool = True,
    reasoning: bool = False,
    names: Sequence[str] = ("get_weather", "get"),
) -> Text:
    """The parser of one answer whose tokens are bytes."""
    compiled = [CompiledSyntax(syntax, TOOLS, names) for syntax in syntaxes]
    segmenter = Segmenter(THINK, compiled, parallel=parallel, reasoning=reasoning)
    return Text(ByteDetokenizer(lambda token: bytes([token])), stop, segmenter, trim=bool(compiled))


def parse(text: str, parser: Text, *, truncated: bool = False) -> ParsedAnswer:
    """Parse an answer token by token; a token is a byte."""
    answer = ParsedAnswer()
    for token in text.encode():
        answer.add(parser.push(token))
        if parser.stopped:
            break
    answer.add(parser.finish(truncated=truncated))
    answer.has_tool_calls = parser.has_tool_calls
    return answer
