"""The requests of /v1/messages and /v1/messages/count_tokens, and their table of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from protocol.grammars import Grammar
from protocol.messages import ToolUse
from service.api.messages.blocks import (
    AssistantMessageParam,
    CacheControl,
    MessageParams,
    SystemContent,
    TextBlock,
    check_messages,
    invalid,
    unsupported,
)
from service.api.messages.tools import AnyToolChoice, Tools, check_tools, to_tool_use
from service.schema.chat import TemplateOptions
from service.schema.parameter_table import (
    HONOURED,
    METADATA,
    PARAMETERS,
    Parameter,
    refused,
    requiring,
)
from service.schema.parameters import (
    MAX_TOKENS,
    SamplingRequest,
    StopStrings,
    TokenCount,
    check_stops,
)
from service.schema.structured import (
    check_one_is_set,
    check_schema_size,
    schema_grammar,
    to_grammar,
)

KEEP_ALL = "all"
CLEAR_THINKING = "clear_thinking_"
# Anthropic documents it as the default.
DEFAULT_EFFORT = "high"
# Of the thinking that a request turns on without an effort of its own.
ENABLED_EFFORT = "medium"
NO_EFFORT = "none"
SHARED = (
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "priority",
    "repetition_context_size",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "stop_token_ids",
    "stream",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
)

AnthropicTemperature = Annotated[float, Meta(ge=0, le=1, description="0 is greedy.")]
BudgetTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
# Claude Code asks for `updates`: as `summarized`, all of the thinking is shown.
Display = Literal["summarized", "omitted", "updates"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]

PARAMETERS_OF_MESSAGES: dict[str, Parameter] = {
    **{name: PARAMETERS[name] for name in SHARED},
    "cache_control": METADATA,
    "chat_template_kwargs": requiring("template_variables"),
    "container": refused(),
    "context_management": HONOURED,
    "diagnostics": METADATA,
    "inference_geo": refused(),
    "max_tokens": HONOURED,
    "mcp_servers": refused([]),
    "messages": requiring("chat_template"),
    "metadata": METADATA,
    "model": HONOURED,
    "output_config": HONOURED,
    "output_config.effort": requiring("reasoning_effort"),
    "output_config.format": HONOURED,
    "output_format": HONOURED,
    "service_tier": refused("auto", "standard_only"),
    "speed": refused("standard"),
    "stop_sequences": HONOURED,
    "system": HONOURED,
    "thinking": HONOURED,
    "tool_choice": HONOURED,
    "tools": HONOURED,
    "user_profile_id": METADATA,
    "workspace_id": METADATA,
}


class Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Whether the model thinks before its answer."""


class ThinkingDisabled(Thinking, frozen=True, tag="disabled"):
    """It does not; refused for a model that always thinks."""


class ThinkingEnabled(Thinking, frozen=True, tag="enabled"):
    """It does, for at most `budget_tokens`."""

    budget_tokens: BudgetTokens
    display: Display | None = None


class ThinkingAdaptive(Thinking, frozen=True, tag="adaptive"):
    """As the model does by default."""

    display: Display | None = None


class ThinkingBetweenTools(Thinking, frozen=True, tag="between_tools"):
    """Thinking between calls of tools alone; it is refused."""

    display: Display | None = None


AnyThinking = ThinkingDisabled | ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools


class JsonOutputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """JSON that conforms to a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]
    name: str | None = None


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effort of the thinking, and the format of the answer."""

    effort: Effort | None = None
    format: JsonOutputFormat | None = None


class ContextEdit(msgspec.Struct, frozen=True):
    """An edit of the context; only those that keep everything are taken."""

    type: str
    keep: Any = None


class ContextManagement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The edits of the context."""

    edits: list[ContextEdit] | None = None


class PromptRequest(SamplingRequest, frozen=True, kw_only=True):
    """A conversation. Of what has no effect on its prompt, nothing is used for counting."""

    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS_OF_MESSAGES

    messages: MessageParams
    max_tokens: TokenCount | None = None
    temperature: AnthropicTemperature | None = None
    system: SystemContent | None = None
    stop_sequences: StopStrings | None = None
    thinking: AnyThinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutputFormat | None = None
    tools: Tools | None = None
    tool_choice: AnyToolChoice | None = None

    # Metadata and hints, which have no effect on the answer.
    cache_control: CacheControl | None = None
    diagnostics: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None

    # Refused, but for the values in the table.
    container: Any = None
    context_management: ContextManagement | None = None
    inference_geo: str | None = None
    mcp_servers: list[Any] | None = None
    service_tier: str | None = None
    speed: str | None = None

    # Not in Anthropic's API.
    chat_template_kwargs: TemplateOptions | None = None

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return self.stop_sequences or []

    @property
    def output_schema(self) -> JsonOutputFormat | None:
        """The format of the answer, under its present or its earlier name."""
        return (self.output_config and self.output_config.format) or self.output_format

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that constrains the answer; None for free text."""
        if self.output_schema is not None:
            return schema_grammar(self.output_schema.schema)
        return to_grammar(None, self.structured_outputs)

    @property
    def grammar_param(self) -> str:
        """The parameter that sets the grammar."""
        if self.output_config is not None and self.output_config.format is not None:
            return "output_config.format"
        return "structured_outputs" if self.output_format is None else "output_format"

    @property
    def tool_use(self) -> ToolUse | None:
        """The tools that the answer may call; None if it may call none."""
        return to_tool_use(self.tool_choice, self.tools or [])

    @property
    def effort(self) -> str | None:
        """The effort of the thinking, `none` to turn it off; None is the model's default."""
        if isinstance(self.thinking, ThinkingDisabled):
            return NO_EFFORT
        effort = self.output_config.effort if self.output_config else None
        if effort is not None and effort != DEFAULT_EFFORT:
            return effort
        return ENABLED_EFFORT if isinstance(self.thinking, ThinkingEnabled) else None

    @property
    def thinking_budget(self) -> int | None:
        """The most tokens of thinking; None without a bound."""
        return self.thinking.budget_tokens if isinstance(self.thinking, ThinkingEnabled) else None

    @property
    def omits_thinking(self) -> bool:
        """Whether the thinking is in the answer's signature alone."""
        return getattr(self.thinking, "display", None) == "omitted"

    @property
    def turns(self) -> MessageParams:
        """The messages without an answer at their end that is empty."""
        is_empty = isinstance(self.messages[-1], AssistantMessageParam) and not self.is_prefilled
        return self.messages[:-1] if is_empty else self.messages

    @property
    def is_prefilled(self) -> bool:
        """Whether the last message is the beginning of the answer; an empty one is none."""
        return bool(prefill_of(self.messages))

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        super().check()
        check_messages(self.messages)
        check_stops(self.stop_strings, "stop_sequences")
        check_tools(self.tools or [])
        use = self.tool_use
        self._check_format()
        check_context_management(self.context_management)
        if isinstance(self.thinking, ThinkingBetweenTools):
            raise unsupported("thinking.type", "`thinking.type` `between_tools` is not supported.")
        if self.is_prefilled and (self.grammar is not None or (use is not None and use.required)):
            where = f"messages[{len(self.messages) - 1}]"
            message = f"`{where}` begins the answer, which has a format or must be a call."
            raise invalid(message, where)

    def _check_format(self) -> None:
        if self.output_format is not None and self.output_config and self.output_config.format:
            message = "`output_format` is the earlier name of `output_config.format`: set only one."
            raise invalid(message, "output_format")
        name = "output_format" if self.output_format is not None else "output_config.format"
        if self.output_schema is not None:
            check_schema_size(self.output_schema.schema, f"{name}.schema")
        if self.structured_outputs is None:
            return
        check_one_is_set(self.structured_outputs)
        if self.output_schema is not None:
            message = f"`{name}` and `structured_outputs` cannot be combined: set only one of them."
            raise invalid(message, "structured_outputs")


class MessagesRequest(PromptRequest, frozen=True, kw_only=True):
    """A conversation to answer with at most `max_tokens`."""

    max_tokens: TokenCount


class CountTokensRequest(PromptRequest, frozen=True, kw_only=True):
    """A conversation whose prompt's tokens are counted."""


def prefill_of(messages: MessageParams) -> str:
    """The text that begins the answer; empty if the last message is not the assistant's.

    Raises:
        InvalidRequest: the last message is the assistant's, and not text alone.
    """
    message = messages[-1]
    if not isinstance(message, AssistantMessageParam):
        return ""
    if isinstance(message.content, str):
        return message.content
    for number, block in enumerate(message.content):
        if not isinstance(block, TextBlock):
            where = f"messages[{len(messages) - 1}].content[{number}].type"
            raise invalid(f"`{where}`: only text can begin the answer.", where)
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def check_context_management(management: ContextManagement | None) -> None:
    """Refuse edits of the context that would leave something out.

    Raises:
        InvalidRequest: an edit does not keep all of the thinking.
    """
    for index, edit in enumerate((management and management.edits) or []):
        if not edit.type.startswith(CLEAR_THINKING) or edit.keep != KEEP_ALL:
            name = f"context_management.edits[{index}]"
            message = f'`{name}` is not supported but for clearing thinking with `keep` "all".'
            raise unsupported(name, message)
