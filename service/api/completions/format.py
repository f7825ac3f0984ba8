"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from protocol.events import Event, Finished, Progress, PromptLogprobs, Started, TextDelta
from protocol.messages import Submit, TextPrompt, TokenPrompt
from service.errors import MlxdError
from service.generation.answers import Answer, to_sampling, to_siblings
from service.generation.dialect import ResponseHeader
from service.generation.logprob_encoder import to_completion_logprobs
from service.generation.stream_encoder import ChunkUsage, ChunkWriter
from service.schema.completions import Completion, CompletionChoice, CompletionRequest
from service.schema.usage import PromptProgress, Usage


class CompletionFormat:
    """Completions: each prompt is continued by one sequence per candidate."""

    operation = "text_completion"
    request_type = CompletionRequest

    def to_submits(self, request: CompletionRequest, model: str) -> list[Submit]:
        sampling = to_sampling(request)
        ranked = request.candidates > request.choices
        submits = [
            Submit(
                id=0,
                model=model,
                prompt=prompt,
                sampling=sampling,
                max_tokens=request.token_limit,
                stop=request.stop_strings,
                grammar=request.grammar,
                grammar_param=request.grammar_param,
                echo=bool(request.echo),
                logprobs=0 if request.logprobs is None and ranked else request.logprobs,
                prompt_logprobs=request.logprobs if request.echo else None,
                skip_special_tokens=request.skip_special_tokens is not False,
                progress=request.reports_progress,
                priority=request.priority or 0,
            )
            for prompt in to_prompts(request.prompts, request.suffix or "")
        ]
        return [each for submit in submits for each in to_siblings(submit, request.candidates)]

    def new_id(self) -> str:
        return f"cmpl-{uuid.uuid4().hex}"

    def to_response(
        self,
        request: CompletionRequest,
        header: ResponseHeader,
        answers: list[Answer],
        usage: Usage,
    ) -> Completion:
        choices = [
            CompletionChoice(
                index=index,
                text=answer.text,
                finish_reason=answer.finish_reason,
                logprobs=None
                if request.logprobs is None
                else to_completion_logprobs(answer.logprobs),
            )
            for index, answer in enumerate(answers)
        ]
        return self.to_chunk(request, header, choices, usage)

    def to_writer(
        self, request: CompletionRequest, header: ResponseHeader
    ) -> ChunkWriter[CompletionRequest, CompletionChoice]:
        return ChunkWriter(self, request, header)

    def explain(self, error: MlxdError) -> MlxdError:
        return error

    def to_choice(
        self, request: CompletionRequest, index: int, event: Event
    ) -> CompletionChoice | None:
        match event:
            case Started(echo=text) if text:
                return CompletionChoice(index, text)
            case (
                TextDelta(text=text, logprobs=tokens) | PromptLogprobs(text=text, logprobs=tokens)
            ) if text or tokens:
                logprobs = to_completion_logprobs(tokens) if tokens else None
                return CompletionChoice(index, text, logprobs=logprobs)
            case Finished(reason=reason):
                return CompletionChoice(index, "", finish_reason=reason)
            case Progress():
                return CompletionChoice(index, "")
            case _:
                return None

    def to_chunk(
        self,
        request: CompletionRequest,
        header: ResponseHeader,
        choices: list[CompletionChoice],
        usage: ChunkUsage,
        progress: PromptProgress | UnsetType = UNSET,
    ) -> Completion:
        return Completion(
            id=header.id,
            created=header.created,
            model=header.model,
            system_fingerprint=header.system_fingerprint,
            choices=choices,
            usage=usage,
            prompt_progress=progress,
        )


def to_prompts(prompts: Sequence[str | list[int]], suffix: str) -> list[TextPrompt | TokenPrompt]:
    """The request's prompts; equal ones are one object, which is sent and prepared once."""
    distinct: dict[str | tuple[int, ...], TextPrompt | TokenPrompt] = {}
    result = []
    for prompt in prompts:
        if isinstance(prompt, str):
            result.append(distinct.setdefault(prompt, TextPrompt(prompt, suffix)))
        else:
            result.append(distinct.setdefault(tuple(prompt), TokenPrompt(prompt)))
    return result
