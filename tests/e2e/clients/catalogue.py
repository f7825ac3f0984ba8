"""The clients: where each is installed, its scenario, and what the scenario must report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements"
PACKAGE_JSON = FOLDER / "node/package.json"
# Node's packages, and the program that runs them, are in two folders.
NPM, NODE = "npm", "node"

# A tool's call, a second turn with its result, and a stream beside a plain answer.
TALK = ("city", "closing", "streamed")

# What each value of a report must be.
RIGHT: dict[str, Callable[[Any], bool]] = {
    "answers": lambda value: len(value) == 2,
    "called": bool,
    "city": lambda value: bool(value == "Oslo"),
    "closing": lambda value: "sunny" in value,
    "continued": bool,
    "counted": bool,
    "embedded": bool,
    "formatted": lambda value: value in ("good", "bad"),
    "last_event": lambda value: bool(value == "message_stop"),
    "lengths": lambda value: bool(value == [16]),
    "logprobs": lambda value: len(value) == 4 and max(value) < 0,
    "messages": bool,
    "reasked": lambda value: bool(value == 1),
    "responses": lambda value: bool(value == ["Oslo"]),
    "streamed": bool,
    "structured": lambda value: value in ("good", "bad"),
    "successful": lambda value: bool(value == 4),
    "turns": lambda value: bool(value == 2),
}


@dataclass(frozen=True, slots=True)
class Client:
    """A client, named as its users name it."""

    name: str
    environment: str
    packages: tuple[str, ...]
    script: str
    # The client's own name for a refusal: that of the model `absent`.
    error: str
    reports: tuple[str, ...] = TALK


CLIENTS = (
    Client(
        "LangChain.js `createAgent`",
        NPM,
        ("langchain", "@langchain/openai"),
        "langchain_js.cjs",
        "NotFoundError",
        (*TALK, "structured"),
    ),
    Client(
        "AI SDK",
        NPM,
        ("ai", "@ai-sdk/openai-compatible"),
        "ai_sdk.cjs",
        "AI_APICallError",
        (*TALK, "structured"),
    ),
    Client(
        "AI SDK's `openai()`",
        NPM,
        ("ai", "@ai-sdk/openai"),
        "ai_sdk_responses.cjs",
        "AI_APICallError",
        (*TALK, "structured"),
    ),
    Client(
        "openai-node",
        NPM,
        ("openai",),
        "openai_node.cjs",
        "NotFoundError",
        (*TALK, "embedded"),
    ),
    Client(
        "instructor with a re-ask",
        "instructor",
        ("instructor", "openai"),
        "instructor_reask.py",
        "NotFoundError",
        ("city", "reasked", "streamed", "structured"),
    ),
    Client(
        "LiteLLM's SDK",
        "litellm",
        ("litellm",),
        "litellm_sdk.py",
        "NotFoundError",
        (*TALK, "structured"),
    ),
    Client(
        "LiteLLM's `responses`",
        "litellm",
        ("litellm",),
        "litellm_responses.py",
        "NotFoundError",
        (*TALK, "structured", "continued"),
    ),
    Client(
        "LiteLLM's models of `anthropic`",
        "litellm",
        ("litellm",),
        "litellm_messages.py",
        "NotFoundError",
        (*TALK, "structured", "messages"),
    ),
    Client(
        "LiteLLM's proxy",
        "litellm",
        ("litellm",),
        "litellm_proxy.py",
        "NotFoundError",
        (*TALK, "responses", "messages", "last_event"),
    ),
    Client(
        "LangGraph's agent",
        "agents",
        ("langgraph", "langchain-openai"),
        "langgraph_agent.py",
        "OpenAIModelNotFoundError",
        (*TALK, "structured"),
    ),
    Client(
        "LangChain with `use_responses_api`",
        "agents",
        ("langchain-openai",),
        "langchain_responses.py",
        "OpenAIModelNotFoundError",
        (*TALK, "structured", "continued", "counted"),
    ),
    Client(
        "openai-agents",
        "openai-agents",
        ("openai-agents",),
        "openai_agents.py",
        "NotFoundError",
        (*TALK, "called", "structured", "continued"),
    ),
    Client(
        "llama-index",
        "llama-index",
        ("llama-index-core", "llama-index-llms-openai-like"),
        "llama_index_agent.py",
        "NotFoundError",
        (*TALK, "structured"),
    ),
    Client(
        "pydantic-ai",
        "agents",
        ("pydantic-ai-slim",),
        "pydantic_agent.py",
        "ModelNotFoundError",
        (*TALK, "structured", "formatted"),
    ),
    Client(
        "pydantic-ai's `openai:`",
        "agents",
        ("pydantic-ai-slim",),
        "pydantic_responses.py",
        "ModelNotFoundError",
        (*TALK, "structured", "formatted"),
    ),
    Client(
        "the `llm` command",
        "agents",
        ("llm",),
        "llm_command.py",
        "Error: Error code: 404",
        (*TALK, "structured", "continued"),
    ),
    Client(
        "guidellm",
        "evaluation",
        ("guidellm",),
        "guidellm_report.py",
        "4 errored of 4",
        ("successful", "lengths"),
    ),
    Client(
        "lm-evaluation-harness",
        "evaluation",
        ("lm_eval",),
        "lm_eval_task.py",
        "HTTPError",
        ("answers", "logprobs"),
    ),
    Client("OpenCode", NPM, ("opencode-ai",), "opencode.cjs", "APIError", ("city", "continued")),
    Client(
        "Qwen Code",
        NPM,
        ("@qwen-code/qwen-code",),
        "qwen_code.cjs",
        "API Error: 404",
        ("called", "turns", "continued"),
    ),
)


def pinned_versions(client: Client) -> dict[str, str]:
    """The versions of a client's packages that `make clients` installs."""
    if client.environment == NPM:
        pins = msgspec.json.decode(PACKAGE_JSON.read_bytes())["dependencies"]
    else:
        lines = (REQUIREMENTS / f"{client.environment}.txt").read_text().splitlines()
        pins = dict(re.split("==| ", line)[:2] for line in lines if "==" in line)
    return {package: pins[package] for package in client.packages}
