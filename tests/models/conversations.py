"""A model's own view of a conversation: what its template writes, and how its answer is read.

The model is opened from its files without weights; an answer's tokens are single bytes.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit, ToolUse
from tests.models import staged
from tests.models.staged import ALPHABET, Staged
from worker.call_readers.deltas import ContentDelta, ToolCallArguments, ToolCallStart
from worker.models.families import build_registry
from worker.models.model_config import ModelConfig, ModelConfigLoader

Message = dict[str, Any]
Calls = list[tuple[str, Any]]

# Markers that templates write literally, and that models have as tokens.
SPECIAL = re.compile(r"<\|[\w:/]+\|>|<｜[\w▁]+｜>|<｜[\w▁]+:\w+｜>|<\w+\|>|<\|\w+>")
BYTES = {byte: id for id, byte in enumerate(ALPHABET)}
# Where a marker may begin that the end of a common text is inside of.
MARKER_START = re.compile(r"(?:<[^<>\n]{0,40}|\]<\]?[a-z]*\[?>?)$")


@dataclass(frozen=True)
class Answer:
    """What was read from an answer."""

    content: str
    reasoning: str
    names: list[str]
    arguments: list[str]
    has_tool_calls: bool

    @property
    def calls(self) -> Calls:
        """The calls with their arguments decoded."""
        pairs = zip(self.names, self.arguments, strict=True)
        return [(name, json.loads(arguments)) for name, arguments in pairs]


@functools.cache
def open_model(template: str) -> tuple[list[str], ModelConfig]:
    """The special tokens and the configuration of a template's model, opened once."""
    special = list(
        dict.fromkeys([*staged.Staged("").special, *sorted(set(SPECIAL.findall(template)))])
    )
    stage = Staged(
        "x",
        template=template,
        special=special,
        bos=special[0],
        # Llama's family adds what its template does not tell.
        config={"model_type": "llama"} if "<|start_header_id|>" in template else {},
    )
    # It is read whole when it is opened.
    with tempfile.TemporaryDirectory() as folder:
        source = ModelSource("model", str(staged.make(stage, Path(folder) / "model")))
        config = ModelConfigLoader(build_registry(), 0).load(source, download=False)
    return special, config


class Conversations:
    """Conversations with the model of one chat template."""

    def __init__(self, template: str, tools: Sequence[dict[str, Any]]) -> None:
        self._special, self.config = open_model(template)
        self.tools = list(tools)
        self.names = [tool["function"]["name"] for tool in tools]
        self._texts: dict[str, str] = {}

    def tokens(self, messages: Sequence[Message], *, asks: bool) -> list[int]:
        """The prompt of these messages; with `asks` the template asks for an answer."""
        prompt = ChatPrompt(list(messages), tools=self.tools, generation_prompt=asks)
        return self.config.prompts.build(prompt)

    def text(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """The text of `tokens`. Each is built once."""
        key = repr((messages, asks))
        if key not in self._texts:
            tokens = self.tokens(messages, asks=asks)
            self._texts[key] = b"".join(map(self.config.token_bytes, tokens)).decode()
        return self._texts[key]

    def written(self, before: Sequence[Message], message: Message) -> tuple[str, str]:
        """What the template writes for an assistant's message: the text before it, and it."""
        prompt, whole = self.text(before, asks=True), self.text([*before, message])
        common = next(
            (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
            min(len(prompt), len(whole)),
        )
        if common < len(prompt) and (start := MARKER_START.search(whole[:common])):
            common = start.start()
        return whole[:common], whole[common:].removesuffix(self._turn_end(before))

    def read(self, before: str, answer: str, *, truncated: bool = False) -> Answer:
        """Read an answer to a prompt with the text `before`."""
        prompt = ChatPrompt([{"role": "user", "content": "x"}], tools=self.tools)
        submit = Submit(
            id=1,
            model="model",
            prompt=prompt,
            sampling=Sampling(seed=0),
            calls=ToolUse(self.names, required=False, parallel=True),
        )
        text = self.config.parsers.create(submit, self.encode(before))
        deltas = [delta for byte in answer.encode() for delta in text.push(BYTES[byte])]
        deltas += text.finish(truncated=truncated)
        said = {"content": "", "reasoning": ""}
        names: list[str] = []
        arguments: list[str] = []
        for delta in deltas:
            match delta:
                case ContentDelta(part, kind):
                    said[kind] += part
                case ToolCallStart(_, name):
                    names.append(name)
                    arguments.append("")
                case ToolCallArguments(index, part):
                    arguments[index] += part
        return Answer(said["content"], said["reasoning"], names, arguments, text.has_tool_calls)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text with special tokens."""
        parts = re.split(f"({'|'.join(map(re.escape, self._special))})", text)
        first = len(BYTES)
        return [
            token
            for part in parts
            for token in (
                [first + self._special.index(part)]
                if part in self._special
                else [BYTES[byte] for byte in part.encode()]
            )
        ]

    def _turn_end(self, before: Sequence[Message]) -> str:
        """What the template writes after an assistant's text."""
        text = self.text([*before, {"role": "assistant", "content": "Xyzzy."}])
        return text.rpartition("Xyzzy.")[2]


def call_message(calls: Calls, content: str = "") -> Message:
    """An assistant's message with calls, as a client sends it back."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "id": f"call{index:05}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for index, (name, arguments) in enumerate(calls)
        ],
    }
