"""LiteLLM's proxy before the service: Chat Completions, Messages and Responses are asked of it.

It asks the service for Chat Completions alone: `custom_openai` is its word for such a service, and
`openai` for OpenAI's own, of which it asks Responses too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
from asked import ABSENT_MODEL, GREETING, MODEL, QUESTION, print_report, weather_in

START_TIMEOUT_S = 240
POLL_S = 0.2
# The proxy refuses to start without one.
KEY = "sk-0123456789abcdef0123456789abcdef"

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Get the weather of a city"}
CHAT_TOOL: Any = {"type": "function", "function": {**WEATHER, "parameters": CITY}}
RESPONSES_TOOL: Any = {"type": "function", **WEATHER, "parameters": CITY, "strict": False}
MESSAGES_TOOL = {**WEATHER, "input_schema": CITY}


@contextlib.contextmanager
def proxy(url: str) -> Iterator[str]:
    """The URL of a proxy that passes every model's name on to the service at `url`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"model": "custom_openai/*", "api_base": url, "api_key": "none"}
        models = [{"model_name": "*", "litellm_params": parameters}]
        settings = {"num_retries": 0, "telemetry": False}
        config = Path(folder, "config.yaml")
        config.write_text(json.dumps({"model_list": models, "litellm_settings": settings}))
        process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("litellm"), "--config", config),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env={**os.environ, "LITELLM_MASTER_KEY": KEY},
            stdout=sys.stderr,
        )
        try:
            wait_serving(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_serving(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the proxy answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/liveliness").is_success:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
    raise TimeoutError("the proxy did not start")


def ask_chat(client: openai.OpenAI) -> dict[str, Any]:
    """Two turns with a tool, a stream beside a plain answer, and a refusal."""
    asked: list[Any] = [{"role": "user", "content": QUESTION}]
    greeted: list[Any] = [{"role": "user", "content": GREETING}]
    chat = client.chat.completions
    calling = chat.create(model=MODEL, messages=asked, tools=[CHAT_TOOL]).choices[0].message
    asked.append(calling)
    for call in calling.tool_calls or []:
        assert call.type == "function"
        told = weather_in(**json.loads(call.function.arguments))
        asked.append({"role": "tool", "tool_call_id": call.id, "content": told})
    closing = chat.create(model=MODEL, messages=asked, tools=[CHAT_TOOL])
    plain = chat.create(model=MODEL, messages=greeted, temperature=0)
    chunks = chat.create(model=MODEL, messages=greeted, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    try:
        chat.create(model=ABSENT_MODEL, messages=greeted)
    except openai.APIError as error:
        refusal = type(error).__name__
    return {
        "closing": closing.choices[0].message.content,
        "plain": plain.choices[0].message.content,
        "streamed": streamed,
        "error": refusal,
    }


def ask_responses(client: openai.OpenAI) -> dict[str, Any]:
    """The call that Responses, as Codex asks for them, end with."""
    events = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        tools=[RESPONSES_TOOL],
        instructions="Be brief.",
        parallel_tool_calls=False,
        store=False,
        stream=True,
    )
    *_, last = events
    output = getattr(last, "response").output  # noqa: B009 (each kind of event has its own)
    calls = [item.arguments for item in output if item.type == "function_call"]
    return {"responses": [json.loads(arguments)["city"] for arguments in calls]}


def ask_messages(url: str) -> dict[str, Any]:
    """The events of Messages, as Claude Code asks for them: cached parts, a system of parts."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": MODEL,
        "max_tokens": 32000,
        "stream": True,
        "system": [{"type": "text", "text": "Be brief.", **cached}],
        "metadata": {"user_id": "someone"},
        "tools": [{**MESSAGES_TOOL, **cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTION, **cached}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": "get_weather",
                        "input": {"city": "Oslo"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny", **cached}
                ],
            },
        ],
    }
    headers = {"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
    answer = httpx.post(f"{url}/v1/messages", json=body, headers=headers, timeout=60)
    assert answer.is_success, answer.text
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(text) for text in data]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return {
        "messages": "".join(delta.get("text", "") for delta in deltas),
        "last_event": events[-1]["type"],
    }


def main(url: str) -> None:
    with proxy(url) as at:
        client = openai.OpenAI(base_url=f"{at}/v1", api_key=KEY)
        print_report(**ask_chat(client), **ask_responses(client), **ask_messages(at))


if __name__ == "__main__":
    main(sys.argv[1])
