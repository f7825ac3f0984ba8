"""How many tokens of a prompt are new: those after what it shares with an earlier prompt.

The prompts are made as the service and its worker make them, so that the count is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocol.messages import ModelSource, Prompt
from service.api.chat.format import ChatFormat
from service.schema.chat import ChatRequest
from tests.load.agents.script import Request
from tests.load.agents.sending import body_of
from worker.models.families import build_registry
from worker.models.model_config import ModelConfigLoader

Tokens = NDArray[np.int32]


class PromptTokens:
    """The token ids of requests by the model in a folder."""

    def __init__(self, folder: Path) -> None:
        loader = ModelConfigLoader(build_registry(), 0)
        self._prompts = loader.load(ModelSource("model", str(folder)), download=False).prompts
        self._format = ChatFormat()
        self._decoder = msgspec.json.Decoder(ChatRequest)
        self._breakpoints: dict[str, tuple[Tokens, list[int]]] = {}

    def of(self, request: Request) -> Tokens:
        """The request's prompt."""
        return np.array(self._prompts.build(self._prompt_of(request)), np.int32)

    def with_breakpoints(self, request: Request) -> tuple[Tokens, list[int]]:
        """The request's prompt, and its cache breakpoints; remembered by its label."""
        if request.label not in self._breakpoints:
            short = self._prompts.shorten(self._prompt_of(request))
            tokens = self._prompts.build(short.prompt)
            messages = self._prompts.map_messages(short, tokens)
            found = self._prompts.breakpoints(short.prompt, tokens, messages)
            self._breakpoints[request.label] = np.array(tokens, np.int32), found
        return self._breakpoints[request.label]

    def _prompt_of(self, request: Request) -> Prompt:
        asked = self._decoder.decode(msgspec.json.encode(body_of(request)))
        return self._format.to_prompt(asked)


def new_tokens(prompt: Tokens, known: Iterable[Tokens]) -> int:
    """The tokens after the longest prefix shared with a known prompt, at least the last one."""
    longest = max((shared(prompt, other) for other in known), default=0)
    return len(prompt) - min(longest, len(prompt) - 1)


def shared(one: Tokens, other: Tokens) -> int:
    """The length of the common prefix."""
    length = min(len(one), len(other))
    unlike = np.flatnonzero(one[:length] != other[:length])
    return int(unlike[0]) if len(unlike) else length
