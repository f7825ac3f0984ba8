"""POST /v1/completions."""

from __future__ import annotations

from protocol.messages import (
    Event,
    Finished,
    PromptLogprobs,
    Started,
    Submit,
    TextDelta,
    TextPrompt,
    TokenPrompt,
)
from service.api.answers import Answer, to_sampling, to_siblings
from service.api.generation import ResponseHeader, ShownUsage
from service.api.logprob_encoder import to_completion_logprobs
from service.schema.completions import Completion, CompletionChoice, CompletionRequest
from service.schema.usage import Usage


class CompletionFormat:
    """Texts to be continued: one sequence a prompt, each answered by its continuation."""

    operation = "text_completion"
    id_prefix = "cmpl"
    request_type = CompletionRequest

    def to_submits(self, asked: CompletionRequest, model: str) -> list[Submit]:
        sampling = to_sampling(asked)
        suffix = asked.suffix or ""
        ranked = asked.candidates > asked.choices
        submits = [
            Submit(
                id=0,
                model=model,
                prompt=TextPrompt(prompt, suffix)
                if isinstance(prompt, str)
                else TokenPrompt(prompt),
                sampling=sampling,
                max_tokens=asked.token_limit,
                stop=asked.stop_strings,
                grammar=asked.grammar,
                echo=bool(asked.echo),
                logprobs=0 if asked.logprobs is None and ranked else asked.logprobs,
                prompt_logprobs=asked.logprobs if asked.echo else None,
            )
            for prompt in asked.prompts
        ]
        return [each for submit in submits for each in to_siblings(submit, asked.candidates)]

    def to_response(
        self, asked: CompletionRequest, head: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> Completion:
        choices = [
            CompletionChoice(
                index,
                answer.text,
                answer.finish_reason,
                None if asked.logprobs is None else to_completion_logprobs(answer.logprobs),
            )
            for index, answer in enumerate(answers)
        ]
        return self.to_chunk(asked, head, choices, usage)

    def to_choice(
        self, asked: CompletionRequest, index: int, event: Event
    ) -> CompletionChoice | None:
        match event:
            case Started(_, _, text) if text:
                return CompletionChoice(index, text)
            case TextDelta(_, text, _, logprobs) | PromptLogprobs(_, text, logprobs) if (
                text or logprobs
            ):
                told = to_completion_logprobs(logprobs) if logprobs else None
                return CompletionChoice(index, text, logprobs=told)
            case Finished(_, reason):
                return CompletionChoice(index, "", reason)
            case _:
                return None

    def to_chunk(
        self,
        asked: CompletionRequest,
        head: ResponseHeader,
        choices: list[CompletionChoice],
        usage: ShownUsage,
    ) -> Completion:
        return Completion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=choices,
            usage=usage,
        )
