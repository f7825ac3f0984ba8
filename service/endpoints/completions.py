"""POST /v1/completions."""

from __future__ import annotations

from msgspec import UNSET

from protocol.messages import Delta, Event, Finished, Started, Submit, TextPrompt, TokenPrompt
from service.answers import Answer, to_sampling
from service.endpoints.generation import Head, ShownUsage
from service.schema.completions import Completion, CompletionChoice, CompletionRequest
from service.schema.usage import Usage


class CompletionDialect:
    """Texts to be continued: one sequence a prompt, each answered by its continuation."""

    id_prefix = "cmpl"
    request_type = CompletionRequest

    def to_submits(self, asked: CompletionRequest, model: str) -> list[Submit]:
        sampling = to_sampling(asked)
        return [
            Submit(
                id=0,
                model=model,
                prompt=TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(prompt),
                sampling=sampling,
                max_tokens=asked.token_limit,
                stop=asked.stop_strings,
                echo=bool(asked.echo),
            )
            for prompt in asked.prompts
        ]

    def to_response(self, head: Head, answers: list[Answer], usage: Usage) -> Completion:
        choices = [
            CompletionChoice(index, answer.text, answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return self.to_chunk(head, choices, usage)

    def to_choice(self, index: int, event: Event) -> CompletionChoice | None:
        match event:
            case Started(_, _, text) | Delta(_, text) if text:
                return CompletionChoice(index, text)
            case Finished(_, reason):
                return CompletionChoice(index, "", reason)
            case _:
                return None

    def to_chunk(
        self, head: Head, choices: list[CompletionChoice], usage: ShownUsage = UNSET
    ) -> Completion:
        return Completion(
            id=head.id, created=head.created, model=head.model, choices=choices, usage=usage
        )
