"""Bodies of hostile requests."""

from __future__ import annotations

import json
from typing import Any

LARGE_BYTES = 15_000_000
REPEATED_BYTES = 600_000
MESSAGES = 250_000
TOOLS = 10_000
ANSWER_TOKENS = 4000
SHARE_OF_CONTEXT = 0.9
SLOW_PROPERTIES = 9000
SMALL_BYTES = 20_000
FIELDS = 1_000_000


def chat(text: str, **fields: Any) -> bytes:
    """A chat request with one message."""
    messages = [{"role": "user", "content": text}]
    return encode({"model": "default", "messages": messages, "temperature": 0, **fields})


def encode(body: dict[str, Any]) -> bytes:
    """The body as JSON in UTF-8."""
    return json.dumps(body, ensure_ascii=False).encode()


def fill(piece: str, size: int) -> str:
    """`piece` repeated to about `size` bytes."""
    return piece * (size // len(piece.encode()))


def large(piece: str) -> bytes:
    """15 MB of one piece."""
    return chat(fill(piece, LARGE_BYTES), max_tokens=16)


def repeated() -> bytes:
    """A prompt of 600 KB for 128 answers."""
    return chat(fill("word ", REPEATED_BYTES), n=128, max_tokens=16)


def many_messages() -> bytes:
    """250,000 messages of one letter."""
    messages = [{"role": "user", "content": "a"}] * MESSAGES
    return encode({"model": "default", "messages": messages, "max_tokens": 16})


def many_tools() -> bytes:
    """10,000 tools, the last of which is required."""
    tools = [tool(f"tool_{number}") for number in range(TOOLS)]
    return chat("Call one.", tools=tools, tool_choice="required", max_tokens=16)


def tool(name: str) -> dict[str, Any]:
    """A tool with two parameters."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    }
    function = {"name": name, "description": f"The weather of {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


def small() -> bytes:
    """20 KB of one letter."""
    return chat(fill("a", SMALL_BYTES), max_tokens=1)


def many_fields() -> bytes:
    """A message with a million unknown fields."""
    fields = ",".join(f'"f{number}":1' for number in range(FIELDS))
    message = f'{{"role":"user","content":"x",{fields}}}'
    return f'{{"model":"default","max_tokens":1,"messages":[{message}]}}'.encode()


def slow_schema(number: int) -> bytes:
    """A JSON schema that takes longer to compile than is allowed, another one for each number."""
    names = (f"property_{number}_{place}" for place in range(SLOW_PROPERTIES))
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    named = {"name": f"slow_{number}", "schema": schema}
    return chat("x", response_format={"type": "json_schema", "json_schema": named}, max_tokens=16)


def long_answer(context: int, number: int) -> bytes:
    """A streamed answer of 4,000 tokens, or of as many as the context has."""
    tokens = min(ANSWER_TOKENS, round(SHARE_OF_CONTEXT * context))
    return chat(f"Request {number}.", max_tokens=tokens, stream=True, ignore_eos=True)


def long_prompt(context: int, number: int) -> bytes:
    """A prompt of one word for each other token of the context, none a prefix of another."""
    return chat(f"{number} " + "word " * (context // 2), max_tokens=16, stream=True)
