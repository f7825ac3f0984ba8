"""Calls as bare JSON, without markers: Llama 3's own syntax, and any model's under a grammar.

A call is JSON at the very beginning of the answer; several are joined by semicolons.
Source: Meta's description of the Llama 3 prompt format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.tool_parsers import pythonic

from worker.tool_calls.formats import JSON_END, json_header
from worker.tool_calls.syntax import CallSyntax, CallTemplate, StreamedCalls, Tool


def parse_built_in_call(text: str, tools: Sequence[Tool]) -> Any:
    """`name.call(key="value")`.

    Raises:
        ValueError: it is none.
    """
    call = pythonic.parse_tool_call(f"[{text.strip()}]", tools)
    return {**call, "name": call["name"].removesuffix(".call")}


JSON_HEADER = json_header("(?:parameters|arguments)", before=r'(?:"type"\s*:\s*"function"\s*,\s*)?')
JSON_CALLS = StreamedCalls(JSON_HEADER, JSON_END, more=rf"\s*;{JSON_HEADER}")
BARE_CALL = CallTemplate('{"name": "', '", "parameters": ', "}", repeats=False)
BARE = CallSyntax(
    start="",
    end="",
    parse=parse_built_in_call,
    opening=None,
    streamed=(JSON_CALLS,),
    written=BARE_CALL,
)
