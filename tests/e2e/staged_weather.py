"""Asks a staged model about the weather, and decodes what it says."""

from __future__ import annotations

import json
from typing import Any

import httpx


def ask(http: httpx.Client, model: str, **changed: Any) -> dict[str, Any]:
    """The answer's message, with its calls decoded, and its finish_reason as `reason`."""
    asked = {"model": model, "messages": [{"role": "user", "content": "Weather?"}], **changed}
    reply = http.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 400, **asked})
    assert reply.status_code == httpx.codes.OK, reply.text
    [choice] = reply.json()["choices"]
    message = choice["message"]
    functions = [call["function"] for call in message.get("tool_calls") or []]
    return {
        "content": message["content"],
        "reasoning": message.get("reasoning_content"),
        "calls": [(call["name"], json.loads(call["arguments"])) for call in functions],
        "reason": choice["finish_reason"],
    }
