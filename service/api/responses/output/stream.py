"""The events of a response that is streamed, numbered as they are written.

Most events differ only in their text and number, so what is around them is encoded once per item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from protocol.events import Event, Finished
from service.api.responses.output.items import Change, Closed, Extended, Opened, OpenItem, Output
from service.api.responses.shapes.response import (
    OutputPart,
    OutputTextPart,
    Response,
    SummaryTextPart,
)
from service.generation.event_stream import named_frame
from service.generation.logprob_encoder import to_chat_logprob

Fields = dict[str, Any]


class ResponseWriter:
    """Writes the events of one response. `snapshot` is the response while it has no output."""

    def __init__(
        self,
        output: Output,
        snapshot: Response,
        finish: Callable[[Sequence[Finished]], Response],
        fail: Callable[[Exception], Response],
    ) -> None:
        self._output = output
        self._finish = finish
        self._fail = fail
        self._begun = snapshot
        # The response at its end.
        self.ended: Response | None = None
        self._encoder = msgspec.json.Encoder()
        self._snapshot = msgspec.Raw(self._encoder.encode(snapshot))
        self._number = 0
        # What is before and between the text and the number of an open item's next event.
        self._prefix = b""
        self._middle = b',"logprobs":[],"sequence_number":'

    def begin(self) -> bytes:
        created = self._frame("response.created", {"response": self._snapshot})
        return created + self.keep_alive()

    def encode(self, index: int, event: Event) -> bytes:
        return b"".join(self._write(change) for change in self._output.add(event))

    def keep_alive(self) -> bytes:
        return self._frame("response.in_progress", {"response": self._snapshot})

    def finish(self, ends: Sequence[Finished]) -> bytes:
        self.ended = self._finish(ends)
        return self._frame(f"response.{self.ended.status}", {"response": self.ended})

    def fail(self, error: Exception) -> bytes:
        self.ended = self._fail(error)
        return self._frame("response.failed", {"response": self.ended})

    def queue(self) -> bytes:
        """The first events of a response that waits in the background."""
        queued = msgspec.structs.replace(self._begun, status="queued")
        created = self._frame("response.created", {"response": queued})
        return created + self._frame("response.queued", {"response": queued})

    def cancel(self, response: Response) -> bytes:
        """The last event of a response that was cancelled."""
        self.ended = response
        return self._frame("response.incomplete", {"response": response})

    def _write(self, change: Change) -> bytes:
        match change:
            case Extended(item, text, logprobs):
                return self._extend(item, text, logprobs)
            case Opened(item):
                frames: Iterable[bytes] = self._open(item)
            case Closed(item, done):
                frames = [*self._close(item), self._item_frame("done", item, done)]
        return b"".join(frames)

    def _extend(self, item: OpenItem, text: str, logprobs: Sequence[Any]) -> bytes:
        if logprobs:
            shown = [to_chat_logprob(token) for token in logprobs]
            fields = {**place_of(item), "delta": text, "logprobs": shown}
            return self._frame(f"{event_of(item)}.delta", fields)
        if not text:
            return b""
        number = str(self._number).encode()
        self._number += 1
        return b"".join((self._prefix, self._encoder.encode(text), self._middle, number, b"}\n\n"))

    def _open(self, item: OpenItem) -> Iterable[bytes]:
        name = f"{event_of(item)}.delta"
        head = self._encoder.encode({"type": name, **place_of(item)})
        self._prefix = b"event: " + name.encode() + b"\ndata: " + head[:-1] + b',"delta":'
        has_logprobs = item.kind == "message"
        self._middle = (b',"logprobs":[]' if has_logprobs else b"") + b',"sequence_number":'
        yield self._item_frame("added", item, item.opening())
        if (part := empty_part(item)) is not None:
            yield self._part_frame("added", item, part)

    def _close(self, item: OpenItem) -> Iterable[bytes]:
        place = place_of(item)
        match item.kind:
            case "function_call":
                fields = {**place, "name": item.name, "arguments": item.text}
            case "custom_tool_call":
                fields = {**place, "input": item.text}
            case "message":
                part = item.to_part()
                assert isinstance(part, OutputTextPart)
                fields = {**place, "text": part.text, "logprobs": part.logprobs}
            case "reasoning":
                fields = {**place, "text": item.text}
        yield self._frame(f"{event_of(item)}.done", fields)
        if item.kind in ("message", "reasoning"):
            yield self._part_frame("done", item, item.to_part())

    def _item_frame(self, what: str, item: OpenItem, shown: msgspec.Struct) -> bytes:
        fields = {"output_index": item.index, "item": shown}
        return self._frame(f"response.output_item.{what}", fields)

    def _part_frame(self, what: str, item: OpenItem, part: OutputPart) -> bytes:
        name = "reasoning_summary_part" if isinstance(part, SummaryTextPart) else "content_part"
        return self._frame(f"response.{name}.{what}", {**place_of(item), "part": part})

    def _frame(self, name: str, fields: Fields) -> bytes:
        data = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return named_frame(name, self._encoder.encode(data))


def event_of(item: OpenItem) -> str:
    """The name of the events that extend the item."""
    match item.kind:
        case "message":
            return "response.output_text"
        case "reasoning":
            return f"response.reasoning_{'summary_' if item.has_summary else ''}text"
        case "function_call":
            return "response.function_call_arguments"
        case "custom_tool_call":
            return "response.custom_tool_call_input"


def place_of(item: OpenItem) -> Fields:
    """Where in the response the text of the item is."""
    place: Fields = {"item_id": item.id, "output_index": item.index}
    if item.kind in ("message", "reasoning"):
        is_summary = item.kind == "reasoning" and item.has_summary
        place["summary_index" if is_summary else "content_index"] = 0
    return place


def empty_part(item: OpenItem) -> OutputPart | None:
    """The content of an item that has just been opened; a call has none."""
    return item.to_part() if item.kind in ("message", "reasoning") else None
