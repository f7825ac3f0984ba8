"""Chat templates of our own, each in the manner in which a family writes calls.

The key is the name of the syntax, and perhaps of a variant.
"""

from __future__ import annotations

ARGUMENTS = "{{ call.function.arguments | tojson }}"
NAME = "{{ call.function.name }}"
OBJECT = f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}'
PAIRS = "{% for key, value in call.function.arguments | items %}"
TEXT = "{{ value if value is string else value | tojson }}"
M3 = "]<]minimax[>["


def chat(
    call: str,
    *,
    start: str = "",
    end: str = "",
    separator: str = "",
    role: str = "<|im_start|>{{ m.role }}\n",
    turn_end: str = "<|im_end|>\n",
    asks: str = "<|im_start|>assistant\n",
    note: str = "",
) -> str:
    """A template that writes each call as `call`, and all of a message between two markers."""
    joined = f"{{% if not loop.last %}}{separator}{{% endif %}}" if separator else ""
    return (
        f"{{# {note} #}}{{% if tools %}}<|im_start|>system\n{{{{ tools | tojson }}}}<|im_end|>\n"
        f"{{% endif %}}{{% for m in messages %}}{role}{{{{ m.content }}}}"
        f"{{% if m.tool_calls %}}{start}{{% for call in m.tool_calls %}}{call}{joined}"
        f"{{% endfor %}}{end}{{% endif %}}{turn_end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{asks}{{% endif %}}"
    )


def tagged(key: str, close: str) -> str:
    """The arguments as text between tags."""
    return f"{PAIRS}{key}{TEXT}{close}{{% endfor %}}"


def keyed(tag: str = "", suffix: str = "") -> str:
    """The arguments as GLM writes them."""
    key, value = f"{tag}arg_key{suffix}", f"{tag}arg_value{suffix}"
    return tagged(f"<{key}>{{{{ key }}}}</{key}>\n<{value}>", f"</{value}>\n")


def invoked(prefix: str = "", attribute: str = "") -> str:
    """A call as MiniMax M2, Muse and DeepSeek write it."""
    arguments = tagged(
        f'<{prefix}parameter name="{{{{ key }}}}"{attribute}>', f"</{prefix}parameter>\n"
    )
    return f'<{prefix}invoke name="{NAME}">\n{arguments}</{prefix}invoke>\n'


STRING = " string=\"{{ 'true' if value is string else 'false' }}\""
GEMMA_VALUE = (
    "{% macro literal(v) %}{% if v is string %}QUOTE{{ v }}QUOTE{% elif v is mapping %}"
    "{ {%- for k, i in v | items %}{{ k }}:{{ literal(i) }}{% if not loop.last %},{% endif %}"
    "{% endfor %}}{% elif v is iterable %}[{% for i in v %}{{ literal(i) }}"
    "{% if not loop.last %},{% endif %}{% endfor %}]{% else %}{{ v | tojson }}{% endif %}"
    "{% endmacro %}"
)
GEMMA_CALL = (
    f"call:{NAME}{{{{ '{{' }}}}{PAIRS}{{{{ key }}}}:{{{{ literal(value) }}}}"
    "{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}"
)
PYTHON_CALL = (
    f"{NAME}({PAIRS}{{{{ key }}}}={{{{ value | tojson }}}}"
    "{% if not loop.last %}, {% endif %}{% endfor %})"
)
NESTED = (
    "{% macro nested(v) %}{% if v is mapping %}{% for k, i in v | items %}NS<{{ k }}>"
    "{{ nested(i) }}NS</{{ k }}>{% endfor %}{% elif v is iterable and v is not string %}"
    "{% for i in v %}NS<item>{{ nested(i) }}NS</item>{% endfor %}"
    "{% elif v is string %}{{ v }}{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
).replace("NS", M3)
CHANNEL_CALL = (
    "<|channel|>commentary to=functions."
    f"{NAME} <|constrain|>json<|message|>{ARGUMENTS}"
    "{% if not loop.last %}<|end|><|start|>assistant{% endif %}"
)
K3_ARGUMENTS = tagged(
    '<|open|>argument key="{{ key }}" type="'
    "{{ 'string' if value is string else 'number' }}\"<|sep|>",
    "<|close|>argument<|sep|>",
)

CALL_TEMPLATES: dict[str, str] = {
    "function_gemma": GEMMA_VALUE.replace("QUOTE", "<escape>")
    + chat(f"<start_function_call>{GEMMA_CALL}<end_function_call>"),
    "gemma4": GEMMA_VALUE.replace("QUOTE", '<|"|>') + chat(f"<|tool_call>{GEMMA_CALL}<tool_call|>"),
    "glm47": chat(f"<tool_call>{NAME}\n{keyed()}</tool_call>\n"),
    "longcat": chat(
        f"<longcat_tool_call>{NAME}\n{keyed('longcat_')}</longcat_tool_call>\n",
    ),
    "hy3": chat(
        f"<tool_call:opensource>{NAME}<tool_sep:opensource>\n"
        f"{keyed(suffix=':opensource')}</tool_call:opensource>\n",
        start="<tool_calls:opensource>\n",
        end="</tool_calls:opensource>",
    ),
    "kimi_k3": chat(
        f'<|open|>call tool="{NAME}" index="{{{{ loop.index }}}}"<|sep|>{K3_ARGUMENTS}'
        "<|close|>call<|sep|>",
        start="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
        note="<|open|> <|close|> <|sep|> <|end_of_msg|>",
    ),
    "minicpm5": chat(
        f'<function name="{NAME}">'
        + tagged('<param name="{{ key }}"><![CDATA[', "]]></param>")
        + "</function>"
    ),
    "minimax_m2": chat(invoked(), start="<minimax:tool_call>\n", end="</minimax:tool_call>"),
    "muse_spark": chat(
        "<|start|>assistant to="
        + NAME
        + "<|message|><atem:function_calls>\n"
        + invoked("atem:")
        + "</atem:function_calls>{% if not loop.last %}<|eom|>{% endif %}",
        role="{% if not m.tool_calls %}<|start|>{{ m.role }}<|message|>{% endif %}",
        turn_end="<|eot|>",
        asks="<|start|>assistant",
    ),
    "deepseek_v32": chat(
        invoked("｜DSML｜", STRING),
        start="<｜DSML｜function_calls>\n",
        end="</｜DSML｜function_calls>",
    ),
    "deepseek_v4": chat(
        invoked("｜DSML｜", STRING), start="<｜DSML｜tool_calls>\n", end="</｜DSML｜tool_calls>"
    ),
    "minimax_m3": NESTED
    + chat(
        f'{M3}<invoke name="{NAME}">{PAIRS}{M3}<{{{{ key }}}}>{{{{ nested(value) }}}}'
        f"{M3}</{{{{ key }}}}>{{% endfor %}}{M3}</invoke>\n",
        start=f"{M3}<tool_call>\n",
        end=f"{M3}</tool_call>",
    ),
    "pythonic": chat(
        PYTHON_CALL,
        start="<|tool_call_start|>[",
        end="]<|tool_call_end|>",
        separator=", ",
    ),
    "qwen3_coder": chat(
        f"<tool_call>\n<function={NAME}>\n"
        + tagged("<parameter={{ key }}>\n", "\n</parameter>\n")
        + "</function>\n</tool_call>\n"
    ),
    "seed_oss": chat(
        f"<seed:tool_call>\n<function={NAME}>\n"
        + tagged("<parameter={{ key }}>", "</parameter>\n")
        + "</function>\n</seed:tool_call>\n"
    ),
    "json_tools": chat(f"<tool_call>\n{OBJECT}\n</tool_call>\n", note="tool_call.name"),
    "harmony": chat(
        CHANNEL_CALL,
        role="<|start|>{{ m.role }}{% if not m.tool_calls %}<|message|>{% endif %}",
        turn_end="<|end|>",
        asks="<|start|>assistant",
        note="<|channel|>",
    ),
    "kimi_k2": chat(
        "<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>"
        f"{ARGUMENTS}<|tool_call_end|>",
        start="<|tool_calls_section_begin|>",
        end="<|tool_calls_section_end|>",
    ),
    "mistral": chat(f"[TOOL_CALLS]{NAME}[ARGS]{ARGUMENTS}"),
    "mistral list": chat(OBJECT, start="[TOOL_CALLS] [", end="]", separator=", "),
    "deepseek_r1": chat(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{NAME}\n```json\n{ARGUMENTS}\n```"
        "<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": chat(
        f"<｜tool▁call▁begin｜>{NAME}<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
    "command": chat(
        '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "'
        + NAME
        + f'", "parameters": {ARGUMENTS}}}',
        start="<|START_ACTION|>[\n    ",
        end="\n]<|END_ACTION|>",
        separator=",\n    ",
    ),
    "command_r_plus": chat(
        f'{{"tool_name": "{NAME}", "parameters": {ARGUMENTS}}}',
        start="Action:\n```json\n[\n",
        end="]```",
        separator=",\n",
        note="directly-answer",
    ),
    "nemotron_v2": chat(OBJECT, start="<TOOLCALL>[", end="]</TOOLCALL>", separator=", "),
    "granite": chat(OBJECT, start="<|tool_call|>[", end="]", separator=", "),
    "granite phi": chat(OBJECT, start="<|tool_call|>[", end="]<|/tool_call|>", separator=", "),
    "apriel": chat(OBJECT, start="<tool_calls>[", end="]</tool_calls>", separator=", "),
    "apriel minimax": chat(OBJECT, start="<tool_calls>\n", end="\n</tool_calls>", separator="\n"),
    "gigachat31": chat(f"<|function_call|>{OBJECT}"),
    "firefunction": chat(OBJECT, start=" functools[", end="]", separator=", "),
    "gigachat3": chat(
        f"<|message_sep|>\n\nfunction call<|role_sep|>\n{OBJECT}",
    ),
    "apertus": chat(
        f'{{"{NAME}": {ARGUMENTS}}}',
        start="<|tools_prefix|>[",
        end="]<|tools_suffix|>",
        separator=", ",
    ),
    "solar_open": chat(
        "<|tool_call:begin|>{{ call.id }}<|tool_call:name|>"
        + NAME
        + f"<|tool_call:args|>{ARGUMENTS}<|tool_call:end|>",
        start="<|tool_calls|>",
        end="<|calls|>",
    ),
    "functionary_v32": chat(f">>>{NAME}\n{ARGUMENTS}", note=">>>all"),
    "function_tag": chat(f"<function={NAME}>{ARGUMENTS}</function>"),
}
