"""Staged models that reason before they answer or call."""

from __future__ import annotations

from typing import Any

from tests.models.staged import CHATML, Staged

THOUGHT = "I count: one, 二, three, four. Five 😀 six; seven (eight) nine."
CONTENT = "Hello to you."
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
JSON_IN_TAGS = "{# <think> </think> <tool_call> tool_call.name tools #}" + CHATML
OPENED = JSON_IN_TAGS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
HARMONY = (
    "{# <|channel|> #}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{{ tools | tojson }}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
CHANNELS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>")
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
        },
    },
}
# So long that a worker can be killed while it says them.
LONG_THOUGHT = " ".join(f"t{n}" for n in range(300))
LONG_CONTENT = " ".join(f"c{n}" for n in range(300))
MODELS = {
    "opens": Staged(f"<think>\n{THOUGHT}\n</think>\n\n{CONTENT}", JSON_IN_TAGS, added=TAGS),
    "opened": Staged(f"{THOUGHT}\n</think>\n\n{CONTENT}", OPENED, added=TAGS),
    "calls": Staged(f"{THOUGHT}\n</think>\n\n{CALL}", OPENED, added=TAGS),
    "json": Staged(f'{THOUGHT}\n</think>\n\n{{"a": 1}}', OPENED, added=TAGS),
    "opens-json": Staged(f'<think>\n{THOUGHT}\n</think>\n\n{{"a": 1}}', JSON_IN_TAGS, added=TAGS),
    "spelled-json": Staged(
        f'Here are my reasoning steps:\n{THOUGHT}[BEGIN FINAL RESPONSE]{{"a": 1}}',
        "{# Here are my reasoning steps: [BEGIN FINAL RESPONSE] #}" + CHATML,
    ),
    # It ends its answer in its reasoning.
    "unfinished": Staged(THOUGHT, OPENED, added=TAGS),
    # Its markers are no tokens of their own.
    "spelled": Staged(
        f"Here are my reasoning steps:\n{THOUGHT}[BEGIN FINAL RESPONSE]{CONTENT}",
        "{# Here are my reasoning steps: [BEGIN FINAL RESPONSE] #}" + CHATML,
    ),
    "spelled-calls": Staged(
        f"{THOUGHT}[BEGIN FINAL RESPONSE]\n{CALL}",
        "{# [BEGIN FINAL RESPONSE] <tool_call> tool_call.name tools #}"
        + CHATML.replace("{% endif %}", "Here are my reasoning steps:\n{% endif %}"),
        added=("<tool_call>", "</tool_call>"),
    ),
    "harmony": Staged(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{CONTENT}",
        HARMONY,
        CHANNELS,
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
    "long": Staged(f"{LONG_THOUGHT}\n</think>\n\n{LONG_CONTENT}", OPENED, added=TAGS),
    # It says the role again in its answer, so that is no token.
    "harmony-json": Staged(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
        '<|message|>{"a": 1}',
        HARMONY.replace("assistant{%", "assistant\n{%"),
        CHANNELS,
        end="<|call|>",
    ),
    "harmony-call": Staged(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>"
        'commentary to=functions.add <|constrain|>json<|message|>{"a": 1}',
        HARMONY,
        CHANNELS,
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
    "plain": Staged(CONTENT),
}
