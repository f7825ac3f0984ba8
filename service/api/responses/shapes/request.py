"""POST /v1/responses: the request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from protocol.grammars import Grammar, JsonObject
from protocol.messages import ToolUse
from service.api.responses.shapes.hosted_tools import HostedTool
from service.api.responses.shapes.items import InputItem, MessageItem, add_type
from service.api.responses.shapes.options import (
    AnyObject,
    BackgroundOptions,
    ConversationId,
    Image,
    Includable,
    Reasoning,
    ResponseCacheOptions,
    ResponseStreamOptions,
    SchemaText,
    Summary,
    Text,
)
from service.api.responses.shapes.parameters import PARAMETERS
from service.api.responses.shapes.tools import (
    AnyTool,
    ChosenAmong,
    ChosenCustom,
    ChosenFunction,
    Offered,
    ToolChoice,
    Tools,
    offer,
    refuse_hosted,
)
from service.errors import InvalidRequest, excerpt
from service.schema.chat import TemplateOptions
from service.schema.parameter_table import Parameter
from service.schema.parameters import (
    Metadata,
    SamplingRequest,
    StopString,
    StopStrings,
    TokenCount,
    TopLogprobs,
    check_stops,
)
from service.schema.strict import find_violation
from service.schema.structured import (
    check_schema_size,
    check_structure,
    invalid,
    schema_grammar,
    to_grammar,
)
from service.schema.tools import invalid_tool

FORMAT = "text.format"
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"


class PromptRequest(SamplingRequest, frozen=True, kw_only=True, dict=True):
    """What shapes the prompt of a response, and its answer."""

    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    limits: ClassVar[tuple[str, ...]] = ("max_output_tokens",)

    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationId | None = None
    text: Text | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_output_tokens: TokenCount | None = None
    # Not in OpenAI's API.
    chat_template_kwargs: TemplateOptions | None = None
    stop: StopString | StopStrings | None = None

    @classmethod
    def complete(cls, document: Any) -> None:
        """Set the types that items may leave out."""
        if not isinstance(document, dict):
            return
        for item in _list_at(document, "input"):
            add_type(item)

    @cached_property
    def items(self) -> list[InputItem]:
        """The request's own input."""
        if isinstance(self.input, str):
            return [MessageItem(role="user", content=self.input)]
        return self.input or []

    @cached_property
    def offered(self) -> list[Offered]:
        """The functions that the model is offered.

        Raises:
            InvalidRequest: a tool is invalid.
        """
        return offer(self.tools or [])

    @property
    def declared(self) -> list[AnyTool]:
        """The tools without those that are left out."""
        return [tool for tool in self.tools or [] if not isinstance(tool, HostedTool)]

    @cached_property
    def tool_use(self) -> ToolUse | None:
        """The functions that the answer may call; None if it may call none.

        Raises:
            InvalidRequest: the choice names a tool that is not declared, or that is hosted.
        """
        return choose(self)

    @property
    def grammar(self) -> Grammar | None:
        match self.text and self.text.format:
            case AnyObject():
                return JsonObject()
            case SchemaText(schema=schema):
                return schema_grammar(schema)
        return to_grammar(None, self.structured_outputs)

    @property
    def grammar_param(self) -> str:
        """The parameter that sets the grammar."""
        return FORMAT if self.structured_outputs is None else "structured_outputs"

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def summary(self) -> Summary | None:
        """The summary of the reasoning that is asked for."""
        reasoning = self.reasoning or Reasoning()
        return reasoning.summary or reasoning.generate_summary

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the response belongs to."""
        at = self.conversation
        return at.id if isinstance(at, ConversationId) else at

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        super().check()
        check_stops(self.stop_strings)
        check_text(self)
        _ = self.tool_use
        if self.summary == "concise":
            raise refuse("reasoning.summary", "is not supported with the value `concise`")
        if self.previous_response_id is not None and self.conversation is not None:
            message = "`conversation` and `previous_response_id` cannot both be set."
            raise InvalidRequest(message, param="previous_response_id", code="invalid_value")
        if self.input is None and self.previous_response_id is None and self.conversation is None:
            raise InvalidRequest(
                "Missing required parameter: `input`.",
                param="input",
                code="missing_required_parameter",
            )
        if self.input == [] and self.previous_response_id is None and self.conversation is None:
            message = "`input` has no item."
            raise InvalidRequest(message, param="input", code="array_below_min_length")


class TokenCountRequest(PromptRequest, frozen=True, kw_only=True, dict=True):
    """A request for the number of tokens of a response's input."""

    model: str = ""


class ResponseRequest(PromptRequest, frozen=True, kw_only=True, dict=True):
    """A response to create."""

    store: bool | None = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    include: list[Includable] | None = None
    stream_options: ResponseStreamOptions | None = None
    top_logprobs: TopLogprobs | None = None
    max_tool_calls: int | None = None

    # Metadata and hints, which have no effect on the answer.
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: ResponseCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    # Codex sends it.
    client_metadata: dict[str, Any] | None = None

    # Some of these are refused: see the table in `parameters`.
    access_programs: dict[str, Any] | None = None
    context_management: list[dict[str, Any]] | None = None
    image: Image | None = None
    moderation: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    service_tier: str | None = None

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives per token; None without log-probabilities."""
        wanted = bool(self.top_logprobs) or LOGPROBS in (self.include or [])
        return (self.top_logprobs or 0) if wanted else None

    @property
    def has_encrypted_reasoning(self) -> bool:
        """Whether the response's reasoning has its encoded form."""
        return ENCRYPTED in (self.include or [])

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        if self.response_format is not None:
            raise refuse("response_format", "is `text.format` in this API")
        super().check()
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "`stream_options` is only allowed when `stream` is true.",
                param="stream_options",
                code="invalid_value",
            )


def check_text(request: PromptRequest) -> None:
    """Check the format of the answer's text, and that only one grammar constrains it.

    Raises:
        InvalidRequest: the format is invalid, or cannot be combined.
    """
    text_format = request.text and request.text.format
    check_structure(None, request.structured_outputs)
    if isinstance(text_format, SchemaText):
        check_schema_size(text_format.schema, f"{FORMAT}.schema")
        violation = find_violation(text_format.schema) if text_format.strict else None
        if violation is not None:
            message = f"Invalid schema for `{FORMAT}` '{text_format.name}': {violation}."
            raise invalid(message, FORMAT)
    if isinstance(text_format, AnyObject | SchemaText) and request.structured_outputs is not None:
        raise invalid(
            f"`{FORMAT}` and `structured_outputs` cannot be combined: set only one of them.",
            "structured_outputs",
        )


def choose(request: PromptRequest) -> ToolUse | None:
    """The offered functions that the answer may call.

    Raises:
        InvalidRequest: the choice cannot be met.
    """
    parallel = request.parallel_tool_calls is not False
    names = [each.name for each in request.offered]
    match request.tool_choice:
        case "none":
            return None
        case None | "auto":
            return ToolUse(names, parallel=parallel) if names else None
        case "required":
            if not names:
                refuse_first_hosted(request.tools or [])
                raise invalid_tool("tool_choice", "`tool_choice` requires declared tools.")
            return ToolUse(names, required=True, parallel=parallel)
        case ChosenAmong(mode=mode, tools=tools):
            kinds = [tool for tool in tools if not isinstance(tool, HostedTool)]
            if not kinds and mode == "required":
                raise refuse_hosted("tool_choice", tools[0].kind)  # type: ignore[union-attr]
            allowed = [_find(request.offered, tool) for tool in kinds]
            chosen = list(dict.fromkeys(allowed))
            return ToolUse(chosen, mode == "required", parallel) if chosen else None
        case HostedTool(kind=kind):
            raise refuse_hosted("tool_choice", kind)
        case choice:
            return ToolUse([_find(request.offered, choice)], required=True, parallel=False)


def _find(offered: list[Offered], choice: ChosenFunction | ChosenCustom) -> str:
    """The name under which the chosen tool is offered.

    Raises:
        InvalidRequest: no such tool is declared.
    """
    is_custom = isinstance(choice, ChosenCustom)
    for each in offered:
        own = (each.tool.name, each.namespace)
        # The joined name is taken too: only this tells tools of one name apart there.
        if each.is_custom == is_custom and (
            own == (choice.name, choice.namespace)
            or (choice.namespace is None and each.name == choice.name)
        ):
            return each.name
    message = f"`tool_choice`: `{excerpt(choice.name, 64)}` is not one of the declared tools."
    raise invalid_tool("tool_choice", message)


def refuse_first_hosted(tools: list[AnyTool]) -> None:
    """Refuse the first hosted tool.

    Raises:
        InvalidRequest: there is one.
    """
    for index, tool in enumerate(tools):
        if isinstance(tool, HostedTool):
            raise refuse_hosted(f"tools[{index}].type", tool.kind)


def _list_at(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def refuse(param: str, advice: str) -> InvalidRequest:
    """The error for a parameter that is not supported."""
    return InvalidRequest(f"`{param}` {advice}.", param=param, code="unsupported_parameter")
