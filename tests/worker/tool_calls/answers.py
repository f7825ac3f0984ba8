"""Example calls in every family's syntax, and a parser of whole answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
from worker.models import llama
from worker.outputs.detokenizer import ByteDetokenizer
from worker.outputs.text import Text
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.formats import BY_NAME
from worker.tool_calls.markers import Markers
from worker.tool_calls.parser import CompiledSyntax
from worker.tool_calls.syntax import CallSyntax

THINK = Markers("<think>", "</think>")
MAX_BYTE = 0xFF

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

OBJECT = f'{{"name": "get_weather", "arguments": {BOTH}}}'
M3 = "]<]minimax[>["


def dsml(section: str) -> str:
    """A section of DeepSeek's calls since V3.2."""
    begin, end = "<｜DSML｜", "</｜DSML｜"
    return (
        f'{begin}{section}>\n{begin}invoke name="get_weather">\n'
        f'{begin}parameter name="city" string="true">Paris{end}parameter>\n'
        f'{begin}parameter name="days" string="false">2{end}parameter>\n'
        f"{end}invoke>\n{end}{section}>"
    )


# A syntax, and perhaps a variant -> a section with one call of get_weather: two days in Paris.
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
    "seed_oss": "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
    "<parameter=days>2</parameter>\n</function>\n</seed:tool_call>",
    "hy3": "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n"
    "<arg_key:opensource>city</arg_key:opensource>\n"
    "<arg_value:opensource>Paris</arg_value:opensource>\n"
    "<arg_key:opensource>days</arg_key:opensource>\n"
    "<arg_value:opensource>2</arg_value:opensource>\n"
    "</tool_call:opensource>\n</tool_calls:opensource>",
    "deepseek_v32": dsml("function_calls"),
    "deepseek_v4": dsml("tool_calls"),
    "minimax_m3": f'{M3}<tool_call>\n{M3}<invoke name="get_weather">{M3}<city>Paris{M3}</city>'
    f"{M3}<days>2{M3}</days>{M3}</invoke>\n{M3}</tool_call>",
    "deepseek_r1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    f"```json\n{BOTH}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{BOTH}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "command": '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
    f'"parameters": {BOTH}}}\n]<|END_ACTION|>',
    "command_r_plus": 'Action:\n```json\n[\n    {"tool_name": "get_weather", '
    f'"parameters": {BOTH}}}\n]```',
    "nemotron_v2": f"<TOOLCALL>[{OBJECT}]</TOOLCALL>",
    "granite": f"<|tool_call|>[{OBJECT}]",
    "granite phi": f"<|tool_call|>[{OBJECT}]<|/tool_call|>",
    "apriel": f"<tool_calls>[{OBJECT}]</tool_calls>",
    "apriel minimax": f"<tool_calls>\n{OBJECT}\n</tool_calls>",
    "gigachat31": f"<|function_call|>{OBJECT}",
    "gigachat3": f"<|message_sep|>\n\nfunction call<|role_sep|>\n{OBJECT}",
    "firefunction": f"functools[{OBJECT}]",
    "apertus": f'<|tools_prefix|>[{{"get_weather": {BOTH}}}]<|tools_suffix|>',
    "solar_open": "<|tool_calls|><|tool_call:begin|>call00000<|tool_call:name|>get_weather"
    f"<|tool_call:args|>{BOTH}<|tool_call:end|><|calls|>",
    "functionary_v32": f">>>get_weather\n{BOTH}",
    "function_tag": f"<function=get_weather>{BOTH}</function>",
    "llama": '{"name": "get_weather", "parameters": ' + BOTH + "}",
    "llama tagged": '<|python_tag|>{"name": "get_weather", "parameters": ' + BOTH + "}",
    "llama built-in": '<|python_tag|>get_weather.call(city="Paris", days=2)',
    "mistral list": '[TOOL_CALLS] [{"name": "get_weather", "arguments": ' + BOTH + "}]",
}


def syntaxes_of(family: str) -> Sequence[CallSyntax]:
    """The syntaxes of a family, by its key in `SECTIONS`."""
    if family.startswith("llama"):
        return llama.CALL_SYNTAXES
    return (BY_NAME[family.split()[0]],)


def declare(properties: dict[str, Any]) -> dict[str, Any]:
    """A tool `get` with these properties."""
    parameters = {
        "type": "object",
        "properties": properties,
        "$defs": {"zip": {"type": "string"}},
    }
    return {"type": "function", "function": {"name": "get", "parameters": parameters}}


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
    properties: dict[str, Any] | None = None,
    tools: Sequence[dict[str, Any]] = TOOLS,
) -> Text:
    """The parser of one answer whose tokens are bytes; `get` declares these `properties`."""
    tools = tools if properties is None else [declare(properties)]
    compiled = [compile_syntax(syntax, json.dumps(tools), tuple(names)) for syntax in syntaxes]
    segmenter = Segmenter(THINK, compiled, parallel=parallel, reasoning=reasoning)
    return Text(ByteDetokenizer(token_bytes), stop, segmenter, trim=bool(compiled))


def token_bytes(token: int) -> bytes:
    """The text of a token: a byte, or what `token_of` has made a token of."""
    length = (token.bit_length() + 7) // 8
    return bytes([token]) if token <= MAX_BYTE else token.to_bytes(length, "big")[1:]


def token_of(text: bytes) -> int:
    """The token of some bytes."""
    return int.from_bytes(b"\x01" + text, "big")


@functools.cache
def compile_syntax(syntax: CallSyntax, tools: str, names: tuple[str, ...]) -> CompiledSyntax:
    """A syntax compiled for tools, which are given as JSON."""
    return CompiledSyntax(syntax, json.loads(tools), names)


def parse(text: str, parser: Text, *, truncated: bool = False, token_size: int = 1) -> ParsedAnswer:
    """Parse an answer token by token; a token has `token_size` bytes."""
    answer = ParsedAnswer()
    encoded = text.encode()
    for start in range(0, len(encoded), token_size):
        answer.add(parser.push(token_of(encoded[start : start + token_size])))
        if parser.stopped:
            break
    answer.add(parser.finish(truncated=truncated))
    answer.has_tool_calls = parser.has_tool_calls
    return answer
