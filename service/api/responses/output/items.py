"""The output items of a response, made from the events of its sequence.

An item is opened by its first piece and closed before the next one opens. Whole answers and
streams are made of the same items, with the same ids.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec import UNSET

from protocol.events import (
    ArgumentsDelta,
    Event,
    Finished,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
)
from service.api.responses.output.custom_input import CustomInputReader
from service.api.responses.shapes.response import (
    ItemStatus,
    OutputCustomCall,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputPart,
    OutputReasoning,
    OutputTextPart,
    ReasoningTextPart,
    SummaryTextPart,
)
from service.api.responses.shapes.tools import Offered
from service.generation.logprob_encoder import to_chat_logprob
from service.schema.object_ids import ObjectIds

ItemKind = Literal["message", "reasoning", "function_call", "custom_tool_call"]
PREFIXES: dict[ItemKind, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
}
CALL_ID_DIGITS = 24


@dataclass(slots=True)
class OpenItem:
    """An item of which more may come. `text` of a call is its arguments or its input."""

    kind: ItemKind
    index: int
    id: str
    has_summary: bool = False
    name: str = ""
    namespace: str | None = None
    call_id: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reader: CustomInputReader | None = None

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self.parts) if self.reader is None else self.reader.text

    def add(self, text: str) -> str:
        """Append text or arguments; what of it the client gets."""
        if self.reader is not None:
            return self.reader.feed(text)
        self.parts.append(text)
        return text

    def to_part(self) -> OutputPart:
        """The content of a message or of reasoning."""
        if self.kind == "message":
            return OutputTextPart(self.text, logprobs=[to_chat_logprob(t) for t in self.logprobs])
        return (SummaryTextPart if self.has_summary else ReasoningTextPart)(self.text)

    def opening(self) -> OutputItem:
        """The item while it is empty."""
        return self._to_item("in_progress", [], "")

    def to_item(self, status: ItemStatus) -> OutputItem:
        """The item as far as it has come."""
        parts = [self.to_part()] if self.kind in ("message", "reasoning") else []
        return self._to_item(status, parts, self.text)

    def _to_item(self, status: ItemStatus, parts: Sequence[OutputPart], text: str) -> OutputItem:
        namespace = UNSET if self.namespace is None else self.namespace
        match self.kind:
            case "message":
                texts = [part for part in parts if isinstance(part, OutputTextPart)]
                return OutputMessage(id=self.id, status=status, content=texts)
            case "reasoning":
                return OutputReasoning(
                    id=self.id,
                    status=status,
                    summary=[part for part in parts if isinstance(part, SummaryTextPart)],
                    content=[part for part in parts if isinstance(part, ReasoningTextPart)],
                )
            case "function_call":
                return OutputFunctionCall(
                    id=self.id,
                    status=status,
                    call_id=self.call_id,
                    name=self.name,
                    namespace=namespace,
                    arguments=text,
                )
            case "custom_tool_call":
                return OutputCustomCall(
                    id=self.id,
                    status=status,
                    call_id=self.call_id,
                    name=self.name,
                    namespace=namespace,
                    input=text,
                )


@dataclass(frozen=True, slots=True)
class Opened:
    """An item is opened."""

    item: OpenItem


@dataclass(frozen=True, slots=True)
class Extended:
    """An item gets more text, with the log-probabilities of its tokens."""

    item: OpenItem
    text: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """An item is closed, as `done`."""

    item: OpenItem
    done: OutputItem


Change = Opened | Extended | Closed


class Output:
    """The items of one answer, with ids of `ids`. `complete` is applied to each that is closed."""

    def __init__(
        self,
        offered: Mapping[str, Offered],
        *,
        has_summary: bool,
        complete: Callable[[OutputItem], OutputItem] = lambda item: item,
        ids: ObjectIds | None = None,
    ) -> None:
        self._offered = offered
        self._has_summary = has_summary
        self._complete = complete
        self._ids = ids or ObjectIds()
        self._open: OpenItem | None = None
        self.items: list[OutputItem] = []
        self.finished: Finished | None = None

    def add(self, event: Event) -> Iterator[Change]:
        """What the event changes."""
        match event:
            case TextDelta(text=text, logprobs=logprobs, kind=kind) if text or logprobs:
                name: ItemKind = "message" if kind == "content" else "reasoning"
                item = self._open
                if item is None or item.kind != name:
                    if not text:
                        return
                    yield from self._close("completed")
                    item = self._start(name)
                    yield Opened(item)
                yield Extended(item, item.add(text), logprobs)
                item.logprobs += logprobs
            case ToolCallStarted(name=called):
                yield from self._close("completed")
                yield Opened(self._start_call(called))
            case ArgumentsDelta(text=text) if self._open is not None:
                if added := self._open.add(text):
                    yield Extended(self._open, added)
            case Finished(reason=reason):
                self.finished = event
                yield from self._close("incomplete" if reason == "length" else "completed")

    def so_far(self) -> list[OutputItem]:
        """All items; one that is open is incomplete."""
        return self.items if self._open is None else [*self.items, self._open.to_item("incomplete")]

    def _start(self, kind: ItemKind) -> OpenItem:
        id = self._ids.new(PREFIXES[kind])
        self._open = OpenItem(kind, len(self.items), id, has_summary=self._has_summary)
        return self._open

    def _start_call(self, name: str) -> OpenItem:
        offered = self._offered.get(name)
        is_custom = offered is not None and offered.is_custom
        item = self._start("custom_tool_call" if is_custom else "function_call")
        item.call_id = f"call_{uuid.uuid4().hex[:CALL_ID_DIGITS]}"
        item.name, item.namespace = name, None
        if offered is not None:
            item.name, item.namespace = offered.tool.name, offered.namespace
        if is_custom:
            item.reader = CustomInputReader()
        return item

    def _close(self, status: ItemStatus) -> Iterator[Change]:
        if self._open is not None:
            item, self._open = self._open, None
            done = self._complete(item.to_item(status))
            self.items.append(done)
            yield Closed(item, done)
