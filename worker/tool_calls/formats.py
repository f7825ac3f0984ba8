"""The call syntaxes that mlx-lm has parsers for (0.32.2), by the parser's name.

mlx-lm infers the parser from the chat template; what it cannot say is where a
call's arguments begin in the text, and how a section must begin to be one.
"""

from __future__ import annotations

import importlib

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.syntax import NAME, CallSyntax, CallTemplate, StreamedCalls

OBJECT = r"(?=\{)"


def json_header(arguments: str = "arguments", before: str = "") -> str:
    """`{"name": ..., "arguments": ` up to the arguments' object; `before` may stand first."""
    return rf'\s*\{{\s*{before}"name"\s*:\s*"{NAME}"\s*,\s*"{arguments}"\s*:\s*{OBJECT}'


JSON_END = r"\s*\}"

TAGGED_JSON = StreamedCalls(header=json_header(), footer=JSON_END, close=r"\s*</tool_call>")
KIMI_HEADER = (
    rf"\s*<\|tool_call_begin\|>\s*(?:functions\.)?{NAME}:\d+"
    rf"\s*<\|tool_call_argument_begin\|>\s*{OBJECT}"
)
KIMI = StreamedCalls(
    header=KIMI_HEADER,
    footer=r"\s*<\|tool_call_end\|>",
    more=KIMI_HEADER,
    close=r"\s*<\|tool_calls_section_end\|>",
)
MISTRAL_HEADER = rf"{NAME}\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]\s*{OBJECT}"
MISTRAL = StreamedCalls(
    header=rf"\s*{MISTRAL_HEADER}", footer="", more=rf"\s*(?:\[TOOL_CALLS\]\s*)?{MISTRAL_HEADER}"
)
MISTRAL_LIST = StreamedCalls(
    header=rf"\s*\[{json_header()}",
    footer=r'(?:\s*,\s*"id"\s*:\s*"[^"]*")?\s*\}',
    more=rf"\s*,{json_header()}",
    close=r"\s*\]",
)


def find_syntax(tokenizer: TokenizerWrapper) -> CallSyntax | None:
    """The syntax of this tokenizer's model, where mlx-lm has inferred one."""
    if not tokenizer.has_tool_calling:
        return None
    return make_syntax(tokenizer.init_kwargs["tool_parser_type"])


def make_syntax(parser: str) -> CallSyntax:
    """The syntax that mlx-lm's parser of this name reads. An unknown parser's calls come whole."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
    opening, streamed = FAMILIES.get(parser, (r"\s*\S", ()))
    return CallSyntax(
        start=module.tool_call_start,
        end=module.tool_call_end,
        parse=module.parse_tool_call,
        opening=opening,
        streamed=streamed,
        written=WRITTEN.get(parser),
    )


# Parser -> how a section begins, and what of it can be streamed.
FAMILIES: dict[str, tuple[str, tuple[StreamedCalls, ...]]] = {
    "function_gemma": (rf"\s*call:{NAME}\{{", ()),
    "gemma4": (rf"\s*call:{NAME}\{{", ()),
    "glm47": (rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)", ()),
    "json_tools": (r"\s*\{", (TAGGED_JSON,)),
    "kimi_k2": (r"\s*<\|tool_call_begin\|>", (KIMI,)),
    "kimi_k3": (r"\s*<\|open\|>call\b", ()),
    "laguna": (rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)", ()),
    "longcat": (
        rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)",
        (StreamedCalls(header=json_header(), footer=JSON_END, close=r"\s*</longcat_tool_call>"),),
    ),
    "minicpm5": (rf"\s*[\"']?{NAME}[\"']?\s*>", ()),
    "minimax_m2": (rf"\s*<invoke name=[\"']?{NAME}[\"']?\s*>", ()),
    "mistral": (r"\s*\[", (MISTRAL, MISTRAL_LIST)),
    "muse_spark": (r"\s*<atem:invoke\b", ()),
    "pythonic": (rf"\s*\[\s*{NAME}\s*\(", ()),
    "qwen3_coder": (rf"\s*<function={NAME}>", ()),
}

# Parser -> a call with JSON arguments as its model writes one.
WRITTEN: dict[str, CallTemplate] = {
    "json_tools": CallTemplate('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
    "kimi_k2": CallTemplate(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "mistral": CallTemplate("[TOOL_CALLS]", "[ARGS]", ""),
}
