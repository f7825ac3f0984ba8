"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import UNSET, UnsetType

from protocol.events import (
    ArgumentsDelta,
    Event,
    Finished,
    FinishReason,
    Progress,
    Started,
    TextDelta,
    ToolCallStarted,
)
from protocol.messages import ChatPrompt, Submit
from service.errors import MlxdError
from service.generation.answers import Answer, to_sampling, to_siblings
from service.generation.dialect import ResponseHeader
from service.generation.logprob_encoder import to_chat_logprobs
from service.generation.stream_encoder import ChunkUsage, ChunkWriter
from service.schema.chat import (
    AnswerMessage,
    ApiFinishReason,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatRequest,
    ChunkChoice,
    FunctionDelta,
    ToolCallDelta,
)
from service.schema.messages import FunctionCall, ToolCall, to_template
from service.schema.tools import describe
from service.schema.usage import PromptProgress, Usage


class ChatFormat:
    """Chat completions: each choice is one sequence.

    `softened` are the parameters that models which cannot honour them ignore.
    """

    operation = "chat"
    request_type = ChatRequest

    def __init__(self, softened: AbstractSet[str] = frozenset()) -> None:
        self._ignores_effort = "reasoning_effort" in softened

    def to_prompt(self, request: ChatRequest) -> ChatPrompt:
        """The conversation as the worker renders it."""
        return ChatPrompt(
            to_template(request.messages),
            options=request.chat_template_kwargs or {},
            continue_final=bool(request.continue_final_message),
            reasoning_effort=request.reasoning_effort,
            generation_prompt=request.add_generation_prompt is not False,
            ignores_effort=self._ignores_effort,
            # With a `tool_choice` of `none` the prompt has no tools, so the model calls none.
            tools=[describe(each) for each in request.declared] if request.tool_use else [],
            schema_paths=request.schema_paths,
        )

    def to_submits(self, request: ChatRequest, model: str) -> list[Submit]:
        submit = Submit(
            id=0,
            model=model,
            prompt=self.to_prompt(request),
            sampling=to_sampling(request),
            max_tokens=request.token_limit,
            stop=request.stop_strings,
            logprobs=request.alternatives,
            grammar=request.grammar,
            grammar_param=request.grammar_param,
            calls=request.tool_use,
            thinking_budget=request.thinking_budget,
            skip_special_tokens=request.skip_special_tokens is not False,
            progress=request.reports_progress,
            priority=request.priority or 0,
            prediction=request.prediction.text if request.prediction else "",
        )
        return to_siblings(submit, request.candidates)

    def new_id(self) -> str:
        return f"chatcmpl-{uuid.uuid4().hex}"

    def to_response(
        self, request: ChatRequest, header: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=to_message(request, answer),
                finish_reason=to_reason(request, answer.finish_reason),
                logprobs=to_chat_logprobs(answer.logprobs) if request.logprobs else None,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=header.id,
            created=header.created,
            model=header.model,
            system_fingerprint=header.system_fingerprint,
            service_tier=request.shown_tier,
            choices=choices,
            usage=usage,
        )

    def to_writer(
        self, request: ChatRequest, header: ResponseHeader
    ) -> ChunkWriter[ChatRequest, ChunkChoice]:
        return ChunkWriter(self, request, header)

    def explain(self, error: MlxdError) -> MlxdError:
        return error

    def to_choice(self, request: ChatRequest, index: int, event: Event) -> ChunkChoice | None:
        match event:
            case Started():
                content = None if request.declared else ""
                return ChunkChoice(index, ChatDelta(role="assistant", content=content))
            case TextDelta(text=text, logprobs=tokens, kind=kind) if text or tokens:
                logprobs = to_chat_logprobs(tokens) if tokens else None
                is_content = kind == "content"
                delta = ChatDelta(content=text) if is_content else ChatDelta(reasoning_content=text)
                return ChunkChoice(index, delta, logprobs=logprobs)
            case ToolCallStarted(index=call, name=name):
                function = FunctionDelta(name=name, arguments="")
                delta = to_call_delta(request, call, function, id=new_call_id())
                return ChunkChoice(index, delta)
            case ArgumentsDelta(index=call, text=text) if text:
                delta = to_call_delta(request, call, FunctionDelta(arguments=text))
                return ChunkChoice(index, delta)
            case Finished(reason=reason):
                return ChunkChoice(index, ChatDelta(), to_reason(request, reason))
            case Progress():
                return ChunkChoice(index, ChatDelta())
            case _:
                return None

    def to_chunk(
        self,
        request: ChatRequest,
        header: ResponseHeader,
        choices: list[ChunkChoice],
        usage: ChunkUsage,
        progress: PromptProgress | UnsetType = UNSET,
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=header.id,
            created=header.created,
            model=header.model,
            system_fingerprint=header.system_fingerprint,
            service_tier=request.shown_tier,
            choices=choices,
            usage=usage,
            prompt_progress=progress,
        )


def to_message(request: ChatRequest, answer: Answer) -> AnswerMessage:
    """The assistant's message. `content` is null if tools were declared and there is no text."""
    calls: list[ToolCall] | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET
    functions = [FunctionCall(call.name, call.arguments) for call in answer.calls]
    if functions and request.functions:
        function = functions[0]
    elif functions:
        calls = [ToolCall(new_call_id(), "function", function) for function in functions]
    return AnswerMessage(
        "assistant",
        answer.text or (None if request.declared else ""),
        reasoning_content=answer.reasoning or UNSET,
        tool_calls=calls,
        function_call=function,
    )


def to_call_delta(
    request: ChatRequest, index: int, function: FunctionDelta, id: str | UnsetType = UNSET
) -> ChatDelta:
    """The next part of tool call `index`; only its first part has an `id`."""
    if request.functions:
        return ChatDelta(function_call=function)
    kind: Literal["function"] | UnsetType = UNSET if id is UNSET else "function"
    return ChatDelta(tool_calls=[ToolCallDelta(index=index, id=id, type=kind, function=function)])


def to_reason(request: ChatRequest, reason: FinishReason) -> ApiFinishReason:
    """The finish reason: `function_call` if the request uses the deprecated `functions`."""
    return "function_call" if reason == "tool_calls" and request.functions else reason


def new_call_id() -> str:
    """A random public id for a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"
