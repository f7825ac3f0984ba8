"""The call syntaxes whose arguments are JSON.

`{name}` and the other placeholders are explained in `declared_tools.py`, the forms in
`json_calls.py`. An entry's `name` is that of mlx-lm's parser (0.32.2) if it has one.
"""

from __future__ import annotations

from worker.call_readers.json_calls import JsonObjects, NamedJson
from worker.call_readers.literal_calls import LiteralArguments
from worker.call_readers.tagged_calls import TaggedArguments
from worker.tool_calls.syntax import CallSyntax, CallTemplate

OBJECTS = (JsonObjects(),)
# Llama 3: bare JSON at the beginning of an answer, or any family's under a grammar.
BARE_JSON = CallSyntax(
    name="bare_json",
    start="",
    end="",
    forms=OBJECTS,
    call_template=CallTemplate('{"name": "', '", "parameters": ', "}", repeatable=False),
)
PYTHON_TAG = CallSyntax(
    name="python_tag",
    start="<|python_tag|>",
    end="",
    forms=(*OBJECTS, LiteralArguments(headers=("{name}.call(", "{name}("))),
)
# Llama 3.1, Functionary 3.1.
FUNCTION_TAG = CallSyntax(
    name="function_tag",
    start="<function=",
    end="",
    forms=(NamedJson(headers=("{name}>",), footer="</function>"),),
    words=(("<function=", "</function>"),),
    without=("<parameter=",),
    call_template=CallTemplate("<function=", ">", "</function>"),
)
QWEN_TAGS = TaggedArguments(
    headers=("<function={name}>",),
    key="<parameter={key}>",
    close="</parameter>",
    footer="</function>",
    padding="\n",
)
# Hermes, Qwen 2.5 and 3, and others: JSON in tags, which every vocabulary can encode.
JSON_TOOLS = CallSyntax(
    name="json_tools",
    start="<tool_call>",
    end="</tool_call>",
    forms=(*OBJECTS, QWEN_TAGS),
    leads=("<function=",),
    call_template=CallTemplate('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
)
# OpenAI's gpt-oss, llm-jp; the header of a message tells the name.
HARMONY = CallSyntax(
    name="harmony",
    start="",
    end="<|end|>",
    forms=(NamedJson(headers=("{name}\n",)),),
    words=(("<|channel|>", "<|message|>"),),
    channels=True,
    call_template=CallTemplate(
        "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "", repeatable=False
    ),
)


def objects_between(name: str, start: str, end: str, *words: str) -> CallSyntax:
    """A syntax of JSON objects, one, several or in a list, between two markers."""
    return CallSyntax(
        name=name,
        start=start,
        end=end,
        forms=OBJECTS,
        words=(words or (start,),),
        call_template=CallTemplate(f'{start}[{{"name": "', '", "arguments": ', f"}}]{end}"),
    )


JSON_SYNTAXES = (
    JSON_TOOLS,
    HARMONY,
    CallSyntax(
        name="kimi_k2",
        start="<|tool_calls_section_begin|>",
        end="<|tool_calls_section_end|>",
        forms=(
            NamedJson(
                headers=(
                    "<|tool_call_begin|> functions.{name}:{id} <|tool_call_argument_begin|>",
                    "<|tool_call_begin|> {name}:{id} <|tool_call_argument_begin|>",
                    "<|tool_call_begin|> functions.{name} <|tool_call_argument_begin|>",
                    "<|tool_call_begin|> {name} <|tool_call_argument_begin|>",
                ),
                footer=" <|tool_call_end|>",
            ),
        ),
        leads=("<|tool_call_begin|>",),
        call_template=CallTemplate(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|><|tool_calls_section_end|>",
        ),
    ),
    CallSyntax(
        name="mistral",
        start="[TOOL_CALLS]",
        end="",
        forms=(NamedJson(headers=("{name} [ARGS]", "{name} [CALL_ID] {id} [ARGS]")), *OBJECTS),
        call_template=CallTemplate("[TOOL_CALLS]", "[ARGS]", ""),
    ),
    CallSyntax(
        name="deepseek_r1",
        start="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
        forms=(
            NamedJson(
                headers=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name} ```json",),
                footer=" ``` <｜tool▁call▁end｜>",
            ),
        ),
        words=(("<｜tool▁calls▁begin｜>", "```json"),),
        leads=("<｜tool▁call▁begin｜>",),
        call_template=CallTemplate(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
    ),
    CallSyntax(
        name="deepseek_v31",
        start="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
        forms=(
            NamedJson(
                headers=("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",),
                footer=" <｜tool▁call▁end｜>",
            ),
        ),
        words=(("<｜tool▁calls▁begin｜>",),),
        leads=("<｜tool▁call▁begin｜>",),
        call_template=CallTemplate(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
    ),
    objects_between("command", "<|START_ACTION|>", "<|END_ACTION|>"),
    objects_between("command_r_plus", "Action:\n```json", "```", "Action:", "directly-answer"),
    objects_between("nemotron_v2", "<TOOLCALL>", "</TOOLCALL>"),
    # Granite 3.3, which writes no end marker, and Phi-4 mini.
    objects_between("granite", "<|tool_call|>", "<|/tool_call|>"),
    # Apriel, and MiniMax M1.
    objects_between("apriel", "<tool_calls>", "</tool_calls>"),
    objects_between("gigachat31", "<|function_call|>", ""),
    objects_between("firefunction", "functools", "", "functools["),
    CallSyntax(
        name="gigachat3",
        start="<|message_sep|>\n\nfunction call<|role_sep|>",
        end="",
        forms=OBJECTS,
        words=(("<|message_sep|>", "function call"),),
        leads=("function call<|role_sep|>",),
    ),
    CallSyntax(
        name="apertus",
        start="<|tools_prefix|>",
        end="<|tools_suffix|>",
        forms=(JsonObjects(keyed=True),),
        words=(("<|tools_prefix|>",),),
        call_template=CallTemplate('<|tools_prefix|>[{"', '": ', "}]<|tools_suffix|>"),
    ),
    CallSyntax(
        name="solar_open",
        start="<|tool_calls|>",
        end="<|calls|>",
        forms=(
            NamedJson(
                headers=("<|tool_call:begin|>{id}<|tool_call:name|>{name}<|tool_call:args|>",),
                footer="<|tool_call:end|>",
            ),
        ),
        words=(("<|tool_call:begin|>",),),
        leads=("<|tool_call:begin|>",),
    ),
    CallSyntax(
        name="functionary_v32",
        start=">>>",
        end="",
        forms=(NamedJson(headers=("{name}\n",)),),
        words=((">>>all",),),
    ),
    FUNCTION_TAG,
)
