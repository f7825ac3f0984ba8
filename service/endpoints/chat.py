"""POST /v1/chat/completions."""

from __future__ import annotations

from msgspec import UNSET

from protocol.messages import ChatPrompt, Event, Finished, Started, Submit
from protocol.messages import Delta as TextDelta
from service.answers import Answer, to_sampling
from service.endpoints.generation import Head, ShownUsage
from service.schema.chat import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    ChunkChoice,
    Delta,
)
from service.schema.messages import to_template
from service.schema.usage import Usage


class ChatDialect:
    """Conversations: one sequence a request, answered by the assistant's message."""

    id_prefix = "chatcmpl"
    request_type = ChatRequest

    def to_submits(self, asked: ChatRequest, model: str) -> list[Submit]:
        submit = Submit(
            id=0,
            model=model,
            prompt=ChatPrompt(to_template(asked.messages)),
            sampling=to_sampling(asked),
            max_tokens=asked.token_limit,
            stop=asked.stop_strings,
        )
        return [submit]

    def to_response(self, head: Head, answers: list[Answer], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(index, AnswerMessage("assistant", answer.text), answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=head.id, created=head.created, model=head.model, choices=choices, usage=usage
        )

    def to_choice(self, index: int, event: Event) -> ChunkChoice | None:
        match event:
            case Started():
                return ChunkChoice(index, Delta(role="assistant", content=""))
            case TextDelta(_, text) if text:
                return ChunkChoice(index, Delta(content=text))
            case Finished(_, reason):
                return ChunkChoice(index, Delta(), reason)
            case _:
                return None

    def to_chunk(
        self, head: Head, choices: list[ChunkChoice], usage: ShownUsage = UNSET
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=head.id, created=head.created, model=head.model, choices=choices, usage=usage
        )
