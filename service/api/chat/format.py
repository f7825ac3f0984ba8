"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid
from typing import Literal

from msgspec import UNSET, UnsetType

from protocol.messages import (
    ArgumentsDelta,
    ChatPrompt,
    Event,
    Finished,
    FinishReason,
    Started,
    Submit,
    TextDelta,
    ToolCallStarted,
)
from service.api.answers import Answer, to_sampling, to_siblings
from service.api.generation import ResponseHeader, ShownUsage
from service.api.logprob_encoder import to_chat_logprobs
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
from service.schema.usage import Usage


class ChatFormat:
    """Conversations: one sequence a request, answered by the assistant's message."""

    operation = "chat"
    id_prefix = "chatcmpl"
    request_type = ChatRequest

    def to_submits(self, asked: ChatRequest, model: str) -> list[Submit]:
        use = asked.tool_use
        submit = Submit(
            id=0,
            model=model,
            prompt=ChatPrompt(
                to_template(asked.messages),
                options=asked.chat_template_kwargs or {},
                continue_final=bool(asked.continue_final_message),
                reasoning_effort=asked.reasoning_effort,
                # With `none` the model is not told of any tool, so it writes no call.
                tools=[describe(function) for function in asked.declared] if use else [],
            ),
            sampling=to_sampling(asked),
            max_tokens=asked.token_limit,
            stop=asked.stop_strings,
            logprobs=asked.alternatives,
            grammar=asked.grammar,
            calls=use,
        )
        return to_siblings(submit, asked.candidates)

    def to_response(
        self, asked: ChatRequest, head: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> ChatCompletion:
        choices = [
            ChatChoice(
                index,
                to_message(asked, answer),
                to_reason(asked, answer.finish_reason),
                to_chat_logprobs(answer.logprobs) if asked.logprobs else None,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            service_tier=asked.shown_tier,
            choices=choices,
            usage=usage,
        )

    def to_choice(self, asked: ChatRequest, index: int, event: Event) -> ChunkChoice | None:
        match event:
            case Started():
                content = None if asked.declared else ""
                return ChunkChoice(index, ChatDelta(role="assistant", content=content))
            case TextDelta(_, text, _, logprobs) if text or logprobs:
                told = to_chat_logprobs(logprobs) if logprobs else None
                said = event.kind == "content"
                delta = ChatDelta(content=text) if said else ChatDelta(reasoning_content=text)
                return ChunkChoice(index, delta, logprobs=told)
            case ToolCallStarted(_, call, name):
                opened = FunctionDelta(name=name, arguments="")
                return ChunkChoice(index, to_call_delta(asked, call, opened, new_call_id()))
            case ArgumentsDelta(_, call, text) if text:
                return ChunkChoice(index, to_call_delta(asked, call, FunctionDelta(arguments=text)))
            case Finished(_, reason):
                return ChunkChoice(index, ChatDelta(), to_reason(asked, reason))
            case _:
                return None

    def to_chunk(
        self,
        asked: ChatRequest,
        head: ResponseHeader,
        choices: list[ChunkChoice],
        usage: ShownUsage,
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            service_tier=asked.shown_tier,
            choices=choices,
            usage=usage,
        )


def to_message(asked: ChatRequest, answer: Answer) -> AnswerMessage:
    """The whole answer. Its content is null where tools were declared and nothing was said."""
    calls: list[ToolCall] | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET
    functions = [FunctionCall(call.name, call.arguments) for call in answer.calls]
    if functions and asked.functions:
        function = functions[0]
    elif functions:
        calls = [ToolCall(new_call_id(), "function", function) for function in functions]
    return AnswerMessage(
        "assistant",
        answer.text or (None if asked.declared else ""),
        reasoning_content=answer.reasoning or UNSET,
        tool_calls=calls,
        function_call=function,
    )


def to_call_delta(
    asked: ChatRequest, index: int, function: FunctionDelta, id: str | UnsetType = UNSET
) -> ChatDelta:
    """What one event adds to a call; with `id` its first."""
    if asked.functions:
        return ChatDelta(function_call=function)
    kind: Literal["function"] | UnsetType = UNSET if id is UNSET else "function"
    return ChatDelta(tool_calls=[ToolCallDelta(index=index, id=id, type=kind, function=function)])


def to_reason(asked: ChatRequest, reason: FinishReason) -> ApiFinishReason:
    """Why it ended, in the shape that was asked for."""
    return "function_call" if reason == "tool_calls" and asked.functions else reason


def new_call_id() -> str:
    """A call's public id."""
    return f"call_{uuid.uuid4().hex[:24]}"
