"""POST /v1/responses: a request to its sequence, and its events to a response."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from protocol.events import Finished, Origin
from protocol.messages import ChatPrompt, Submit
from protocol.model_states import ModelDefaults
from service.api.responses.conversation import to_messages
from service.api.responses.output.items import Output
from service.api.responses.output.stream import ResponseWriter
from service.api.responses.shapes.hosted_tools import HostedTool
from service.api.responses.shapes.items import InputItem
from service.api.responses.shapes.request import (
    PromptRequest,
    ResponseRequest,
    refuse_first_hosted,
)
from service.api.responses.shapes.response import (
    ConversationRef,
    IncompleteDetails,
    OutputItem,
    OutputReasoning,
    Response,
    ResponseError,
    ResponseUsage,
    to_response_usage,
)
from service.api.responses.shapes.tools import (
    ChosenCustom,
    ChosenFunction,
    echo,
    list_left_out,
)
from service.errors import InvalidRequest, MlxdError, StoredObjectNotFound, WorkerCrashed
from service.generation.answers import sum_usage, to_sampling
from service.generation.dialect import ResponseHeader
from service.inflight.blamed_requests import INVALID_PROMPT
from service.schema.object_ids import ObjectIds
from service.store.encoded_thinking import EncodedThinking

FAILING = "server_error"
FAULT = "The server had an error while processing the request."
# Parameters of chat completions, which the worker's errors name, and as they are here.
NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}


class Turn(NamedTuple):
    """A request, with its items and those before them; references to items are replaced."""

    request: ResponseRequest
    items: Sequence[InputItem]
    earlier: Sequence[InputItem] = ()


class ResponseFormat:
    """Responses: each is one sequence. `defaults_of` gives what a model's own files set."""

    operation = "response"

    def __init__(
        self,
        defaults_of: Callable[[str], ModelDefaults],
        thinking: EncodedThinking,
        *,
        ignores_effort: bool = False,
        refuses_hosted: bool = False,
        ids: ObjectIds | None = None,
    ) -> None:
        self._defaults_of = defaults_of
        self.thinking = thinking
        self._ignores_effort = ignores_effort
        self._refuses_hosted = refuses_hosted
        self._ids = ids

    def check(self, request: PromptRequest) -> None:
        """Check the rules that the settings make.

        Raises:
            InvalidRequest: a hosted tool is declared, and none may be.
        """
        if self._refuses_hosted:
            refuse_first_hosted(request.tools or [])

    def to_prompt(
        self,
        request: PromptRequest,
        items: Sequence[InputItem],
        earlier: Sequence[InputItem] = (),
    ) -> ChatPrompt:
        """The conversation as the worker renders it.

        Raises:
            InvalidRequest: the items are no conversation.
        """
        reasoning = request.reasoning
        origins: list[Origin] = []
        return ChatPrompt(
            to_messages(
                items,
                earlier=earlier,
                instructions=request.instructions,
                offered=request.offered,
                origins=origins,
            ),
            origins=origins,
            options=request.chat_template_kwargs or {},
            reasoning_effort=reasoning.effort if reasoning else None,
            ignores_effort=self._ignores_effort,
            truncate=request.truncation == "auto",
            # With a `tool_choice` of `none` the prompt has no tools, so the model calls none.
            tools=[each.describe() for each in request.offered] if request.tool_use else [],
            schema_paths=[f"{each.path}.parameters" for each in request.offered],
        )

    def to_submit(self, turn: Turn, model: str) -> Submit:
        """The sequence that answers the request.

        Raises:
            InvalidRequest: the items are no conversation.
        """
        request = turn.request
        return Submit(
            id=0,
            model=model,
            prompt=self.to_prompt(request, turn.items, turn.earlier),
            sampling=to_sampling(request),
            max_tokens=request.token_limit,
            stop=request.stop_strings,
            logprobs=request.alternatives,
            grammar=request.grammar,
            grammar_param=request.grammar_param,
            calls=request.tool_use,
            skip_special_tokens=request.skip_special_tokens is not False,
            priority=request.priority or 0,
        )

    def to_output(self, request: ResponseRequest, model: str) -> Output:
        """The output of an answer that begins."""
        offered = {each.name: each for each in request.offered}
        has_summary = request.summary is not None
        if not request.has_encrypted_reasoning:
            return Output(offered, has_summary=has_summary, ids=self._ids)

        def complete(item: OutputItem) -> OutputItem:
            if not isinstance(item, OutputReasoning):
                return item
            text = "".join(part.text for part in item.content or item.summary)
            encoded = self.thinking.encode(model, text)
            return msgspec.structs.replace(item, encrypted_content=encoded)

        return Output(offered, has_summary=has_summary, complete=complete, ids=self._ids)

    def to_writer(self, base: Response, output: Output) -> ResponseWriter:
        """The writer of a stream; `base` is the response while it has no output."""
        return ResponseWriter(
            output,
            base,
            finish=lambda ends: finish(base, output, ends),
            fail=lambda error: fail(base, output, self.to_error(error)),
        )

    def begin(self, request: ResponseRequest, header: ResponseHeader) -> Response:
        """The response while it has no output."""
        defaults = self._defaults_of(header.model)
        cache = request.prompt_cache_options
        compared = cache and cache.comparison_response_id
        conversation = request.conversation_id
        return Response(
            id=header.id,
            created_at=header.created,
            status="in_progress",
            background=bool(request.background),
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            max_tool_calls=request.max_tool_calls,
            metadata=request.metadata or {},
            model=header.model,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            previous_response_id=request.previous_response_id,
            conversation=None if conversation is None else ConversationRef(conversation),
            prompt_cache_key=request.prompt_cache_key,
            prompt_cache_retention=request.prompt_cache_retention,
            prompt_cache_diagnostics={"type": "unavailable"} if compared else msgspec.UNSET,
            reasoning=show_reasoning(request),
            safety_identifier=request.safety_identifier,
            store=bool(request.store),
            temperature=first_set(request.temperature, defaults.temperature, 1.0),
            text=show_text(request),
            tool_choice=show_choice(request),
            tools=[echo(t) for t in request.tools or [] if not isinstance(t, HostedTool)],
            top_logprobs=request.top_logprobs or 0,
            top_p=first_set(request.top_p, defaults.top_p, 1.0),
            truncation=request.truncation or "disabled",
            user=request.user,
        )

    def to_error(self, error: Exception) -> ResponseError:
        """The error as a failed response has it. Clients repeat what fails with `server_error`."""
        if not isinstance(error, MlxdError):
            return ResponseError(FAILING, FAULT)
        is_its_own = isinstance(error, InvalidRequest | WorkerCrashed)
        return ResponseError(INVALID_PROMPT if is_its_own else FAILING, self.explain(error).message)

    def explain(self, error: MlxdError) -> MlxdError:
        """The error in the words of this API."""
        if isinstance(error, StoredObjectNotFound):
            error.param = "conversation"
        if not isinstance(error, InvalidRequest) or error.param is None:
            return error
        first = error.param.partition("[")[0].partition(".")[0]
        name = "input" if error.code == "context_length_exceeded" else NAMES.get(first)
        if name is not None:
            error.message = error.message.replace(f"`{error.param}`", f"`{name}`")
            error.param = name
        return error


def advise(error: InvalidRequest) -> None:
    """Let the error of a request that cannot be read say how chat's parameters are named here."""
    if error.code == "unknown_parameter" and error.param in NAMES:
        error.message = f"{error.message} In this API it is `{NAMES[error.param]}`."


def finish(base: Response, output: Output, ends: Sequence[Finished]) -> Response:
    """The response at its end."""
    is_cut = any(end.reason == "length" for end in ends)
    return msgspec.structs.replace(
        base,
        status="incomplete" if is_cut else "completed",
        completed_at=None if is_cut else int(time.time()),
        incomplete_details=IncompleteDetails() if is_cut else None,
        output=output.items,
        usage=usage_of(ends),
    )


def fail(base: Response, output: Output, error: ResponseError) -> Response:
    """The response that `error` ended, with what was said until then."""
    ends = [] if output.finished is None else [output.finished]
    return msgspec.structs.replace(
        base,
        status="failed",
        error=error,
        output=output.so_far(),
        usage=usage_of(ends) if ends else None,
    )


def usage_of(ends: Sequence[Finished]) -> ResponseUsage:
    """The token counts of an answer."""
    return to_response_usage(sum_usage(ends))


def first_set(*values: float | None) -> float:
    """The first value that is set; the last one always is."""
    return next(value for value in values if value is not None)


def show_reasoning(request: ResponseRequest) -> dict[str, Any]:
    """The request's `reasoning` as the response has it."""
    reasoning = request.reasoning
    return {"effort": reasoning.effort if reasoning else None, "summary": request.summary}


def show_text(request: ResponseRequest) -> dict[str, Any]:
    """The request's `text` as the response has it."""
    chosen = request.text.format if request.text else None
    shown = {"type": "text"} if chosen is None else msgspec.to_builtins(chosen)
    return {"format": shown, "verbosity": "medium"}


def show_choice(request: ResponseRequest) -> Any:
    """The request's tool choice as the response has it."""
    choice = request.tool_choice
    if choice is None:
        return "auto"
    shown = msgspec.to_builtins(choice)
    if isinstance(choice, ChosenFunction | ChosenCustom) and choice.namespace is None:
        del shown["namespace"]
    return shown


def left_out_of(request: PromptRequest) -> list[str]:
    """The places of the tools that the model is not offered."""
    return list_left_out(request.tools or [])
