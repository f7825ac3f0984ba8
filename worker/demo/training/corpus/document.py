"""The parts of the corpus: exchanges, chats and passages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """One question and its answer; `key` is the part of the answer that must be right."""

    question: str
    answer: str
    key: str


@dataclass(frozen=True)
class Chat:
    """A conversation in OpenAI's format that ends with the assistant's turn.

    `key` is the text that the last turn must contain to be right. It is empty where the
    last turn is a tool call, which is compared as a whole.
    """

    kind: str
    messages: list[Message]
    key: str = ""
    tools: list[Tool] = field(default_factory=list)


@dataclass(frozen=True)
class Passage:
    """Text that is not a conversation."""

    kind: str
    text: str


Document = Chat | Passage


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant message of text."""
    return {"role": "assistant", "content": text}


def turns(exchanges: Iterable[Exchange]) -> list[Message]:
    """The messages of several exchanges, in order."""
    return [m for e in exchanges for m in (user(e.question), assistant(e.answer))]
