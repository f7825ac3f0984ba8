"""The call syntaxes whose arguments are tagged text, or literals of Python or Gemma.

`{name}` and the other placeholders are explained in `declared_tools.py`, the forms in
`tagged_calls.py` and `literal_calls.py`. An entry's `name` is that of mlx-lm's parser (0.32.2)
if it has one.
"""

from __future__ import annotations

from worker.call_readers.json_calls import JsonObjects, NamedJson
from worker.call_readers.literal_calls import LiteralArguments
from worker.call_readers.literals import GEMMA
from worker.call_readers.tagged_calls import TaggedArguments
from worker.tool_calls.json_formats import JSON_TOOLS, QWEN_TAGS
from worker.tool_calls.syntax import CallSyntax, CallTemplate

DSML = "｜DSML｜"
M3 = "]<]minimax[>["
K3_CALL = '<|open|>call{attributes}tool="{name}"{attributes}<|sep|>'
# Llama 3.2 and 4: a Python list at the beginning of an answer.
PYTHON_LIST = CallSyntax(
    name="python_list",
    start="",
    end="",
    forms=(LiteralArguments(headers=("{name}(",)),),
    bare=True,
)
GEMMA_CALLS = (LiteralArguments(headers=("call:{name}{",), end="}", notation=GEMMA),)
GLM_CALLS = (
    TaggedArguments(
        headers=("{name}",),
        key="<arg_key>{key}</arg_key> <arg_value>",
        close="</arg_value>",
    ),
    JsonObjects(),
)


def invocations(
    name: str,
    start: str,
    end: str,
    *,
    prefix: str = "",
    string: str = "",
    words: str = "",
    channels: bool = False,
) -> CallSyntax:
    """Calls as `<invoke name="get">` with `<parameter name="city">`, each tag after `prefix`.

    `string` tells whether a value is a string.
    """
    return CallSyntax(
        name=name,
        start=start,
        end=end,
        forms=(
            TaggedArguments(
                headers=(f'<{prefix}invoke{{attributes}} name="{{name}}" >',),
                key=f'<{prefix}parameter{{attributes}} name="{{key}}"{string}{{attributes}}>',
                close=f"</{prefix}parameter>",
                footer=f"</{prefix}invoke>",
            ),
        ),
        words=(tuple(words.split()),) if words else (),
        leads=(f"<{prefix}invoke",),
        channels=channels,
    )


TEXT_SYNTAXES = (
    CallSyntax(
        name="function_gemma",
        start="<start_function_call>",
        end="<end_function_call>",
        forms=GEMMA_CALLS,
    ),
    CallSyntax(name="gemma4", start="<|tool_call>", end="<tool_call|>", forms=GEMMA_CALLS),
    CallSyntax(name="glm47", start="<tool_call>", end="</tool_call>", forms=GLM_CALLS),
    CallSyntax(name="laguna", start="<tool_call>", end="</tool_call>", forms=GLM_CALLS),
    CallSyntax(
        name="longcat",
        start="<longcat_tool_call>",
        end="</longcat_tool_call>",
        forms=(
            TaggedArguments(
                headers=("{name}",),
                key="<longcat_arg_key>{key}</longcat_arg_key> <longcat_arg_value>",
                close="</longcat_arg_value>",
            ),
            JsonObjects(),
        ),
    ),
    CallSyntax(
        name="hy3",
        start="<tool_calls:opensource>",
        end="</tool_calls:opensource>",
        forms=(
            TaggedArguments(
                headers=("<tool_call:opensource>{name}<tool_sep:opensource>",),
                key="<arg_key:opensource>{key}</arg_key:opensource> <arg_value:opensource>",
                close="</arg_value:opensource>",
                footer="</tool_call:opensource>",
            ),
        ),
        words=(("<tool_calls{}>", ":opensource"), ("<tool_calls:opensource>",)),
        leads=("<tool_call:opensource>",),
    ),
    CallSyntax(
        name="kimi_k3",
        start="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
        forms=(
            NamedJson(
                headers=(f"{K3_CALL} <|open|>json{{attributes}}<|sep|>",),
                footer=" <|close|>json<|sep|> <|close|>call<|sep|>",
            ),
            TaggedArguments(
                headers=(K3_CALL,),
                key='<|open|>argument key="{key}" type="{type}"<|sep|>',
                close="<|close|>argument<|sep|>",
                footer="<|close|>call<|sep|>",
            ),
        ),
        leads=("<|open|>call",),
    ),
    CallSyntax(
        name="minicpm5",
        start="<function name=",
        end="",
        forms=(
            TaggedArguments(
                headers=('"{name}" >',),
                key='<param name="{key}" >',
                close="</param>",
                footer="</function>",
                cdata=True,
            ),
        ),
    ),
    invocations("minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>"),
    invocations(
        "muse_spark",
        "<atem:function_calls>",
        "</atem:function_calls>",
        prefix="atem:",
        channels=True,
    ),
    invocations(
        "deepseek_v32",
        f"<{DSML}function_calls>",
        f"</{DSML}function_calls>",
        prefix=DSML,
        string=' string="{string}"',
        words=f"{DSML} function_calls",
    ),
    invocations(
        "deepseek_v4",
        f"<{DSML}tool_calls>",
        f"</{DSML}tool_calls>",
        prefix=DSML,
        string=' string="{string}"',
        words=DSML,
    ),
    CallSyntax(
        name="minimax_m3",
        start=f"{M3}<tool_call>",
        end=f"{M3}</tool_call>",
        forms=(
            TaggedArguments(
                headers=(f'{M3}<invoke name="{{name}}">',),
                key=f"{M3}<{{key}}>",
                close=f"{M3}</{{key}}>",
                footer=f"{M3}</invoke>",
                nested=M3,
            ),
        ),
        words=((M3,),),
        leads=(f"{M3}<invoke",),
    ),
    CallSyntax(
        name="pythonic",
        start="<|tool_call_start|>",
        end="<|tool_call_end|>",
        forms=(LiteralArguments(headers=("{name}(",)), JsonObjects()),
        history_template=CallTemplate(
            "<|tool_call_start|>[", "(", ")]<|tool_call_end|>", is_python=True
        ),
    ),
    CallSyntax(
        name="qwen3_coder",
        start="<tool_call>",
        end="</tool_call>",
        forms=(QWEN_TAGS, JsonObjects()),
        leads=JSON_TOOLS.leads,
    ),
    CallSyntax(
        name="seed_oss",
        start="<seed:tool_call>",
        end="</seed:tool_call>",
        forms=(
            TaggedArguments(
                headers=("<function={name}>",),
                key="<parameter={key}>",
                close="</parameter>",
                footer="</function>",
            ),
        ),
        words=(("<seed:tool_call>",),),
        leads=("<function=",),
    ),
)
