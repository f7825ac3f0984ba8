"""The objects in a request: its text, its reasoning, and its options."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from service.schema.chat import ReasoningEffort
from service.schema.structured import SchemaName

Includable = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    # These concern items that never occur here.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
Summary = Literal["auto", "concise", "detailed"]


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An object in a request."""


class BackgroundOptions(Shape, frozen=True):
    """How a response in the background is scheduled."""

    completion_window: Literal["soonest", "2h", "8h"] | None = None
    continuation_id: str | None = None


class ConversationId(Shape, frozen=True):
    """A conversation, by its id."""

    id: str


class Image(Shape, frozen=True):
    """How images of the input are treated."""

    context_compression: Literal["auto", "enabled", "disabled"] | None = None


class ResponseCacheOptions(Shape, frozen=True):
    """Hints for the prompt cache."""

    comparison_response_id: str | None = None
    mode: Literal["implicit", "explicit"] | None = None
    prewarm: bool | None = None
    ttl: Literal["30m", "12h"] | None = None


class Reasoning(Shape, frozen=True):
    """How the model thinks, and what the client gets of it.

    With a `summary` the thinking itself, whole, is the text of the summary.
    """

    effort: ReasoningEffort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class ResponseStreamOptions(Shape, frozen=True):
    """Options of a stream."""

    include_obfuscation: bool | None = None


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """One format of the answer's text."""


class PlainText(Format, frozen=True, tag="text"):
    """Any text."""


class AnyObject(Format, frozen=True, tag="json_object"):
    """Any JSON object."""


class SchemaText(Format, frozen=True, kw_only=True, tag="json_schema"):
    """JSON that conforms to a schema; with `strict` it must keep the strict rules too."""

    name: SchemaName
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class Text(Shape, frozen=True):
    """The answer's text."""

    format: PlainText | AnyObject | SchemaText | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
