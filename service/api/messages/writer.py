"""The stream of one answer: events with names, and blocks that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from protocol.events import ArgumentsDelta, Event, Finished, Started, TextDelta, ToolCallStarted
from service.api.messages.answer import (
    ContentBlock,
    Message,
    MessageUsage,
    TextContent,
    ThinkingContent,
    ToolUseContent,
    applied_edits,
    new_call_id,
    stop_reason_of,
    usage_of,
)
from service.api.messages.request import PromptRequest
from service.generation.dialect import ResponseHeader
from service.generation.event_stream import named_frame
from service.http.anthropic_errors import encode_anthropic_error
from service.store.encoded_thinking import EncodedThinking

# Placeholder for the text: encoded, it occurs nowhere else in a frame.
PLACEHOLDER = "\x00"
ENCODED_PLACEHOLDER = msgspec.json.encode(PLACEHOLDER)
BlockKind = Literal["text", "thinking", "tool_use"]
# The delta of each kind of block: its type, and the field that has the text.
DELTAS: dict[BlockKind, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class MessageWriter:
    """Writes the events of one answer. A block is opened by its first piece."""

    def __init__(
        self, request: PromptRequest, header: ResponseHeader, thinking: EncodedThinking
    ) -> None:
        self._request = request
        self._header = header
        self._encoder = msgspec.json.Encoder()
        self._blocks = 0
        self._open: BlockKind | None = None
        # The bytes of an event of the open block before and after its text.
        self._prefix_suffix = (b"", b"")
        self._encoded_thinking = thinking
        self._thinking: list[str] = []

    def begin(self) -> bytes:
        return b""

    def encode(self, index: int, event: Event) -> bytes:
        match event:
            case Started():
                return self._start(event) + self.keep_alive()
            case TextDelta(text=text, kind="content") if text:
                return self._text("text", text)
            case TextDelta(text=text) if text:
                self._thinking.append(text)
                if self._request.omits_thinking:
                    return self._switch("thinking")
                return self._text("thinking", text)
            case ToolCallStarted(name=name):
                return self._close() + self._begin(
                    "tool_use", ToolUseContent(new_call_id(), name, {})
                )
            case ArgumentsDelta(text=text) if text:
                return self._text("tool_use", text)
            case _:
                return b""

    def keep_alive(self) -> bytes:
        return self._frame("ping", {})

    def finish(self, ends: Sequence[Finished]) -> bytes:
        (end,) = ends
        delta = {
            "stop_reason": stop_reason_of(end),
            "stop_sequence": end.stopped_by,
            "stop_details": None,
        }
        fields: dict[str, Any] = {"delta": delta, "usage": usage_of(end)}
        if edits := applied_edits(self._request):
            fields["context_management"] = edits
        return (
            self._close() + self._frame("message_delta", fields) + self._frame("message_stop", {})
        )

    def fail(self, error: Exception) -> bytes:
        return named_frame("error", encode_anthropic_error(error, self._header.request_id))

    def _start(self, event: Started) -> bytes:
        usage = MessageUsage(
            input_tokens=event.prompt_tokens - event.cached_tokens,
            cache_read_input_tokens=event.cached_tokens,
            output_tokens=0,
        )
        message = Message(
            id=self._header.id,
            model=self._header.model,
            content=[],
            usage=usage,
            context_management=applied_edits(self._request),
        )
        return self._frame("message_start", {"message": message})

    def _text(self, kind: BlockKind, text: str) -> bytes:
        opening = b"" if self._open == kind else self._switch(kind)
        prefix, suffix = self._prefix_suffix
        return opening + prefix + self._encoder.encode(text) + suffix

    def _switch(self, kind: BlockKind) -> bytes:
        """Close the open block and open one of this kind, unless that is the open one."""
        if self._open == kind:
            return b""
        block = TextContent("") if kind == "text" else ThinkingContent("", "")
        return self._close() + self._begin(kind, block)

    def _begin(self, kind: BlockKind, block: ContentBlock) -> bytes:
        self._open = kind
        type, field = DELTAS[kind]
        frame = self._delta({"type": type, field: PLACEHOLDER})
        prefix, _, suffix = frame.partition(ENCODED_PLACEHOLDER)
        self._prefix_suffix = prefix, suffix
        return self._frame("content_block_start", {"index": self._blocks, "content_block": block})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        frames = self._signature() if self._open == "thinking" else b""
        frames += self._frame("content_block_stop", {"index": self._blocks})
        self._open = None
        self._blocks += 1
        return frames

    def _signature(self) -> bytes:
        text, self._thinking = "".join(self._thinking), []
        signature = self._encoded_thinking.encode(self._header.model, text)
        return self._delta({"type": "signature_delta", "signature": signature})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._frame("content_block_delta", {"index": self._blocks, "delta": delta})

    def _frame(self, name: str, fields: dict[str, Any]) -> bytes:
        return named_frame(name, self._encoder.encode({"type": name, **fields}))
