"""The call syntaxes of mlx-lm's tool parsers (0.32.2), by the parser's name.

mlx-lm infers the parser from the chat template. Added here are the patterns to stream
calls whose arguments are JSON, and to recognise a section by its beginning.
"""

from __future__ import annotations

import importlib

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.syntax import NAME, CallSyntax, CallTemplate, StreamingPatterns

OBJECT = r"(?=\{)"


def json_header(arguments: str = "arguments", before: str = "") -> str:
    """Match `{"name": ..., "arguments": ` up to the arguments' object; `before` may come first."""
    return rf'\s*\{{\s*{before}"name"\s*:\s*"{NAME}"\s*,\s*"{arguments}"\s*:\s*{OBJECT}'


JSON_END = r"\s*\}"

TAGGED_JSON = StreamingPatterns(
    header=json_header(), footer=JSON_END, section_end=r"\s*</tool_call>"
)
KIMI_HEADER = (
    rf"\s*<\|tool_call_begin\|>\s*(?:functions\.)?{NAME}:\d+"
    rf"\s*<\|tool_call_argument_begin\|>\s*{OBJECT}"
)
KIMI = StreamingPatterns(
    header=KIMI_HEADER,
    footer=r"\s*<\|tool_call_end\|>",
    next_header=KIMI_HEADER,
    section_end=r"\s*<\|tool_calls_section_end\|>",
)
MISTRAL_HEADER = rf"{NAME}\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]\s*{OBJECT}"
MISTRAL = StreamingPatterns(
    header=rf"\s*{MISTRAL_HEADER}",
    footer="",
    next_header=rf"\s*(?:\[TOOL_CALLS\]\s*)?{MISTRAL_HEADER}",
)
MISTRAL_LIST = StreamingPatterns(
    header=rf"\s*\[{json_header()}",
    footer=r'(?:\s*,\s*"id"\s*:\s*"[^"]*")?\s*\}',
    next_header=rf"\s*,{json_header()}",
    section_end=r"\s*\]",
)


def find_syntax(tokenizer: TokenizerWrapper) -> CallSyntax | None:
    """The syntax that mlx-lm inferred for this tokenizer's model; None if it inferred none."""
    if not tokenizer.has_tool_calling:
        return None
    return make_syntax(tokenizer.init_kwargs["tool_parser_type"])


def make_syntax(parser: str) -> CallSyntax:
    """The syntax of mlx-lm's parser of this name. An unknown parser's calls are not streamed."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
    opening, streaming = FORMATS.get(parser, (r"\s*\S", ()))
    return CallSyntax(
        start=module.tool_call_start,
        end=module.tool_call_end,
        parse=module.parse_tool_call,
        opening=opening,
        streaming=streaming,
        call_template=CALL_TEMPLATES.get(parser),
    )


# Parser -> the pattern of a section's beginning, and the patterns of those that can be streamed.
FORMATS: dict[str, tuple[str, tuple[StreamingPatterns, ...]]] = {
    "function_gemma": (rf"\s*call:{NAME}\{{", ()),
    "gemma4": (rf"\s*call:{NAME}\{{", ()),
    "glm47": (rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)", ()),
    "json_tools": (r"\s*\{", (TAGGED_JSON,)),
    "kimi_k2": (r"\s*<\|tool_call_begin\|>", (KIMI,)),
    "kimi_k3": (r"\s*<\|open\|>call\b", ()),
    "laguna": (rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)", ()),
    "longcat": (
        rf"\s*(?:{NAME}(?=[\s<]|$)|\{{)",
        (
            StreamingPatterns(
                header=json_header(), footer=JSON_END, section_end=r"\s*</longcat_tool_call>"
            ),
        ),
    ),
    "minicpm5": (rf"\s*[\"']?{NAME}[\"']?\s*>", ()),
    "minimax_m2": (rf"\s*<invoke name=[\"']?{NAME}[\"']?\s*>", ()),
    "mistral": (r"\s*\[", (MISTRAL, MISTRAL_LIST)),
    "muse_spark": (r"\s*<atem:invoke\b", ()),
    "pythonic": (rf"\s*\[\s*{NAME}\s*\(", ()),
    "qwen3_coder": (rf"\s*<function={NAME}>", ()),
}

# Parser -> a call with JSON arguments in its model's own format.
CALL_TEMPLATES: dict[str, CallTemplate] = {
    "json_tools": CallTemplate('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
    "kimi_k2": CallTemplate(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "mistral": CallTemplate("[TOOL_CALLS]", "[ARGS]", ""),
}
