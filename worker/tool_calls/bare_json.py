"""Bare JSON calls, without markers: Llama 3's own syntax, and any model's under a grammar.

A call is JSON at the very beginning of an answer; several calls are separated by semicolons.
Source: Meta's description of the Llama 3 prompt format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.tool_parsers import pythonic

from worker.tool_calls.formats import JSON_END, json_header
from worker.tool_calls.syntax import CallSyntax, CallTemplate, StreamingPatterns, Tool


def parse_built_in_call(text: str, tools: Sequence[Tool]) -> Any:
    """Parse `name.call(key="value")`.

    Raises:
        ValueError: the text is no such call.
    """
    call = pythonic.parse_tool_call(f"[{text.strip()}]", tools)
    return {**call, "name": call["name"].removesuffix(".call")}


JSON_HEADER = json_header("(?:parameters|arguments)", before=r'(?:"type"\s*:\s*"function"\s*,\s*)?')
BARE_JSON_PATTERNS = StreamingPatterns(
    header=JSON_HEADER, footer=JSON_END, next_header=rf"\s*;{JSON_HEADER}"
)
BARE_JSON_TEMPLATE = CallTemplate(
    before='{"name": "', between='", "parameters": ', after="}", repeatable=False
)
BARE_JSON_SYNTAX = CallSyntax(
    start="",
    end="",
    parse=parse_built_in_call,
    opening=None,
    streaming=(BARE_JSON_PATTERNS,),
    call_template=BARE_JSON_TEMPLATE,
)
