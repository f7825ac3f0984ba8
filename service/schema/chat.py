"""POST /v1/chat/completions: the request, the response and the events of a stream."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from protocol.events import FinishReason
from protocol.messages import ToolUse
from service.errors import InvalidRequest
from service.schema.logprobs import ChatLogprobs
from service.schema.messages import (
    Conversation,
    FunctionCall,
    TextPart,
    ToolCall,
    check_conversation,
    is_continuable,
)
from service.schema.parameters import (
    MAX_TOKENS,
    GenerationRequest,
    Metadata,
    TokenCount,
    TopLogprobs,
)
from service.schema.tools import (
    ChooseFunction,
    DeclaredFunction,
    Function,
    FunctionChoice,
    Functions,
    NamedFunction,
    ToolChoice,
    Tools,
    check_functions,
    check_tools,
    choose,
)
from service.schema.usage import PromptProgress, Usage

MAX_TEMPLATE_OPTIONS = 16

# `function_call` replaces `tool_calls` where the request uses the deprecated `functions`.
ApiFinishReason = Literal[FinishReason, "function_call"]
Messages = Annotated[Conversation, Meta(min_length=1)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# vLLM's values of `thinking_token_budget`.
NO_BUDGET = -1
ThinkingBudget = Annotated[
    int,
    Meta(
        ge=NO_BUDGET,
        le=MAX_TOKENS,
        description="The most tokens of reasoning; after them the model goes on with its answer; "
        "-1 is no bound. A model that marks no reasoning ignores it. Not in OpenAI's API.",
    ),
]
TemplateOptions = Annotated[dict[str, Any], Meta(max_length=MAX_TEMPLATE_OPTIONS)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]


class PromptCacheOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint for the prompt cache; it has no effect on the answer."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class Prediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text that the answer may repeat, which makes it quicker; it does not change the answer."""

    type: Literal["content"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The whole text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """A conversation to answer."""

    limits: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    messages: Messages
    max_completion_tokens: TokenCount | None = None

    # Metadata and hints, which have no effect on the answer.
    metadata: Metadata | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    # Not in OpenAI's API.
    chat_template_kwargs: TemplateOptions | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    thinking_token_budget: ThinkingBudget | None = None

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    # Deprecated by OpenAI: tools and tool_choice in an older shape.
    functions: Functions | None = None
    function_call: FunctionChoice | None = None

    # Some of these are refused: see the table in `parameter_table`.
    audio: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: dict[str, Any] | None = None
    prediction: Prediction | None = None
    reasoning_effort: ReasoningEffort | None = None
    service_tier: ServiceTier | None = None
    store: bool | None = None
    top_logprobs: TopLogprobs | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives per token; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def thinking_budget(self) -> int | None:
        """The most tokens of reasoning; None without a bound."""
        return None if self.thinking_token_budget == NO_BUDGET else self.thinking_token_budget

    @property
    def shown_tier(self) -> str | UnsetType:
        """The service tier of the response: always `default`, and only if the request has one."""
        return UNSET if self.service_tier is None else "default"

    @property
    def declared(self) -> list[Function]:
        """The functions declared by `tools` or `functions`; valid after `check`."""
        tools = self.tools or []
        return self.functions or [t.function for t in tools if isinstance(t, DeclaredFunction)]

    @property
    def schema_paths(self) -> list[str]:
        """The places of the schemas of the declared functions."""
        if self.functions:
            return [f"functions[{index}].parameters" for index in range(len(self.functions))]
        return [
            f"tools[{index}].function.parameters"
            for index, tool in enumerate(self.tools or [])
            if isinstance(tool, DeclaredFunction)
        ]

    @property
    def tool_use(self) -> ToolUse | None:
        """The declared functions that the answer may call; None if it may call none.

        Raises:
            InvalidRequest: the choice names a function that is not declared.
        """
        names = [function.name for function in self.declared]
        if self.function_call is None and not self.functions:
            parallel = self.parallel_tool_calls is not False
            return choose(self.tool_choice, names, parallel=parallel, param="tool_choice")
        call = self.function_call
        choice = ChooseFunction(call) if isinstance(call, NamedFunction) else call
        return choose(choice, names, parallel=False, param="function_call")

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        super().check()
        check_conversation(self.messages)
        check_tools(self.tools or [])
        check_functions(self.functions or [], "functions[{}]")
        for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
            if getattr(self, old) is not None and getattr(self, new) is not None:
                message = f"`{old}` is the deprecated form of `{new}`: set only one of them."
                raise InvalidRequest(message, param=old, code="invalid_value")
        _ = self.tool_use
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest(
                "`max_tokens` and `max_completion_tokens` are one limit: set only one of them.",
                param="max_tokens",
                code="invalid_value",
            )
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "`top_logprobs` requires `logprobs` to be true.",
                param="top_logprobs",
                code="invalid_value",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "`add_generation_prompt` cannot be true with `continue_final_message`.",
                param="add_generation_prompt",
                code="invalid_value",
            )
        if self.continue_final_message and not is_continuable(self.messages[-1]):
            raise InvalidRequest(
                "`continue_final_message` requires a last message of the assistant with only text.",
                param="continue_final_message",
                code="invalid_value",
            )


class AnswerMessage(msgspec.Struct, frozen=True):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: ApiFinishReason
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A complete response. `created` is Unix time in seconds."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = ""
    service_tier: str | UnsetType = UNSET
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(msgspec.Struct, frozen=True):
    """A function's name, or the next part of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one event adds to a call; only the first event has the call's id and name."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one event adds to the message; only the first event has the role."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """The next part of one answer; `finish_reason` is null except in the last event."""

    index: int
    delta: ChatDelta
    finish_reason: ApiFinishReason | None = None
    logprobs: ChatLogprobs | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream.

    `usage` is absent unless the request includes it; then it is null in all events except the
    last one, whose `choices` are empty. `prompt_progress` is that of the choice's prompt, only
    before its first token and if the request has `return_progress`.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str = ""
    service_tier: str | UnsetType = UNSET
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
