"""The input items of a response: messages, calls, results of calls, and reasoning.

Items of other types belong to tools that OpenAI hosts: they are refused by their type. Ids,
statuses and the like are labels, which have no effect on the prompt.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from service.schema.messages import CacheBreakpoint

MAX_CALL_ID_CHARS = 256
MAX_ITEM_ID_CHARS = 256

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Phase = Literal["commentary", "final_answer"]
CallId = Annotated[str, Meta(min_length=1, max_length=MAX_CALL_ID_CHARS)]
ItemId = Annotated[str, Meta(max_length=MAX_ITEM_ID_CHARS)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """One part of a message's content."""


class InputText(Part, frozen=True, tag="input_text"):
    """Text that the client wrote."""

    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class ResultText(InputText, frozen=True, tag="input_text"):
    """Text of a call's result; msgspec requires no tag outside of a union."""

    type_may_be: ClassVar[tuple[str, ...]] = ("absent",)


class OutputText(Part, frozen=True, tag="output_text"):
    """Text of an earlier answer."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Part, frozen=True, tag="refusal"):
    """A refusal of an earlier answer."""

    refusal: str


class SummaryText(Part, frozen=True, tag="summary_text"):
    """A part of a summary of reasoning; msgspec requires no tag outside of a union."""

    type_may_be: ClassVar[tuple[str, ...]] = ("absent",)

    text: str


class ReasoningText(Part, frozen=True, tag="reasoning_text"):
    """A part of reasoning; msgspec requires no tag outside of a union."""

    type_may_be: ClassVar[tuple[str, ...]] = ("absent",)

    text: str


class DirectCaller(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who made a call: the model itself."""

    type: Literal["direct"]


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """One item of a conversation."""

    id: ItemId | None = None


class MessageItem(Item, frozen=True, kw_only=True, tag="message"):
    """A message; `type` may be left out."""

    type_may_be: ClassVar[tuple[str, ...]] = ("absent", "null")

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText | Refusal]
    status: ItemStatus | None = None
    phase: Phase | None = None


class FunctionCallItem(Item, frozen=True, kw_only=True, tag="function_call"):
    """A call of a function; `arguments` is the text that the model wrote."""

    call_id: CallId
    name: str
    arguments: str
    namespace: str | None = None
    status: ItemStatus | None = None
    caller: DirectCaller | None = None
    is_async: Literal[False] | None = msgspec.field(name="async", default=None)


class FunctionOutputItem(Item, frozen=True, kw_only=True, tag="function_call_output"):
    """The result of a function's call."""

    call_id: CallId
    output: str | list[ResultText]
    name: str | None = None
    namespace: str | None = None
    status: ItemStatus | None = None
    caller: DirectCaller | None = None


class CustomCallItem(Item, frozen=True, kw_only=True, tag="custom_tool_call"):
    """A call of a custom tool, whose input is any text."""

    call_id: CallId
    name: str
    input: str
    namespace: str | None = None
    status: ItemStatus | None = None
    caller: DirectCaller | None = None
    is_async: Literal[False] | None = msgspec.field(name="async", default=None)


class CustomOutputItem(Item, frozen=True, kw_only=True, tag="custom_tool_call_output"):
    """The result of a custom tool's call."""

    call_id: CallId
    output: str | list[ResultText]
    status: ItemStatus | None = None
    caller: DirectCaller | None = None


class ReasoningItem(Item, frozen=True, kw_only=True, tag="reasoning"):
    """The reasoning before the next item of the assistant.

    `encrypted_content` is the reasoning itself, encoded; it is for clients that keep no text.
    """

    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None

    @property
    def text(self) -> str:
        """The reasoning in words; without its text, that of its summary."""
        return "\n\n".join(part.text for part in self.content or self.summary)


class ItemReference(Item, frozen=True, kw_only=True, tag="item_reference"):
    """An item that this service has stored; `type` may be left out beside the id alone."""

    type_may_be: ClassVar[tuple[str, ...]] = ("absent", "null")

    id: ItemId


InputItem = (
    MessageItem
    | FunctionCallItem
    | FunctionOutputItem
    | CustomCallItem
    | CustomOutputItem
    | ReasoningItem
    | ItemReference
)


def add_type(item: Any) -> None:
    """Set the `type` of an item that may leave it out: a message, or a reference by id alone."""
    if not isinstance(item, dict) or item.get("type") is not None:
        return
    if "role" in item:
        item["type"] = "message"
    elif item.keys() <= {"id", "type"} and "id" in item:
        item["type"] = "item_reference"


def text_of(content: str | list[ResultText] | list[InputText | OutputText | Refusal]) -> str:
    """The content as one text."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in content)
