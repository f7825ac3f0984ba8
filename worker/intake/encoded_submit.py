"""Requests as the receiver reads them: the prompt stays encoded until it is prepared.

Decoding a prompt of 15 MB holds the GIL for up to half a second, in which no stream gets a
token. So a large prompt is decoded in a preparation process, and here only its outline.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, get_args

import msgspec

from protocol.embedding import Embed
from protocol.messages import (
    ChatPrompt,
    Prompt,
    Request,
    Submit,
    TextPrompt,
    TokenPrompt,
    ToWorker,
)
from protocol.structs import Message
from protocol.tokenization import Tokenize

# The preparation of a message takes about as long as that of this many bytes of text.
MESSAGE_BYTES = 128
# A larger prompt is never prepared in this process, so its messages need not be counted.
MAX_COUNTED_BYTES = 1024 * 1024


class EncodedSubmit(Submit, frozen=True, tag="submit"):
    """A `Submit` whose `prompt` is not decoded yet."""

    prompt: msgspec.Raw  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """The size of the encoded prompt."""
        return memoryview(self.prompt).nbytes

    @property
    def param(self) -> str:
        """The request parameter that holds the prompt."""
        kind = msgspec.msgpack.decode(self.prompt, type=Kind)
        return "messages" if isinstance(kind, ChatKind) else "prompt"

    def decode(self) -> Submit:
        """The request with its prompt."""
        return self.with_prompt(msgspec.msgpack.decode(self.prompt, type=Prompt))

    def outline(self) -> Submit:
        """The request with an empty prompt of the same kind, options and tools."""
        match msgspec.msgpack.decode(self.prompt, type=Outline):
            case ChatOutline() as chat:
                fields = {name: getattr(chat, name) for name in ChatPrompt.__struct_fields__}
                prompt: Prompt = ChatPrompt(**{**fields, "messages": []})
            case TextKind():
                prompt = TextPrompt("")
            case TokenKind():
                prompt = TokenPrompt([])
        return self.with_prompt(prompt)

    def with_prompt(self, prompt: Prompt) -> Submit:
        """The request with this prompt."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return Submit(**{**fields, "prompt": prompt})


class ChatOutline(ChatPrompt, frozen=True, tag="chatprompt"):
    """A conversation without its messages."""

    messages: msgspec.Raw  # type: ignore[assignment]


class ChatCount(ChatPrompt, frozen=True, tag="chatprompt"):
    """A conversation of which only the number of messages is known."""

    messages: list[msgspec.Raw]  # type: ignore[assignment]
    options: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]
    continue_final: bool = False
    reasoning_effort: str | None = None
    tools: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]


class ChatKind(Message, frozen=True, tag="chatprompt"):
    """A conversation; nothing of it is decoded."""


class TextKind(Message, frozen=True, tag="textprompt"):
    """A text; nothing of it is decoded."""


class TokenKind(Message, frozen=True, tag="tokenprompt"):
    """Token ids; none is decoded."""


Outline = ChatOutline | TextKind | TokenKind
Count = ChatCount | TextKind | TokenKind | None
Kind = ChatKind | TextKind | TokenKind

# What the preprocessor gets: each has an encoded prompt, or None, and its size.
EncodedRequest = EncodedSubmit | Tokenize | Embed


def ids_of(request: Request) -> list[int]:
    """The ids of all sequences of a request."""
    siblings = request.siblings if isinstance(request, Submit) else []
    return [request.id, *(sibling.id for sibling in siblings)]


def work_bytes_of(request: EncodedRequest) -> int:
    """How much text takes as long to prepare as the request's prompt, in bytes."""
    if request.nbytes > MAX_COUNTED_BYTES:
        return request.nbytes
    if isinstance(request, Embed):
        texts = msgspec.msgpack.decode(request.prompt, type=list[msgspec.Raw])
        query_bytes = len(request.query or "")
        return max(request.nbytes, len(texts) * (MESSAGE_BYTES + query_bytes))
    match msgspec.msgpack.decode(request.prompt, type=Count):
        case ChatCount(messages):
            return max(request.nbytes, len(messages) * MESSAGE_BYTES)
        case _:
            return request.nbytes


def make_decoder() -> msgspec.msgpack.Decoder[ToWorker]:
    """Decodes all messages to the worker; each `Submit` becomes an `EncodedSubmit`."""
    types: list[Any] = [EncodedSubmit if t is Submit else t for t in get_args(ToWorker)]
    return msgspec.msgpack.Decoder(reduce(or_, types))


def encode(submit: Submit) -> EncodedSubmit:
    """This request as the receiver reads it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(submit), type=EncodedSubmit)
