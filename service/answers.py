"""What both endpoints make of a generation: its sampling, its whole text, its usage."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from protocol.messages import Delta, Finished, FinishReason, Sampling, Started
from service.errors import InternalError
from service.generations import Generation
from service.schema.parameters import GenerationRequest
from service.schema.usage import Usage

SEED_BITS = 63


class Answer:
    """One sequence's text as it grows, and how it ended."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces)

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended; it has."""
        return finished(self).reason

    def add(self, text: str) -> None:
        """Append text."""
        self._pieces.append(text)


def to_sampling(request: GenerationRequest) -> Sampling:
    """The request's sampling with OpenAI's defaults; a random seed where none is given."""
    return Sampling(
        seed=secrets.randbits(SEED_BITS) if request.seed is None else request.seed,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
    )


async def collect_answers(generation: Generation, count: int) -> list[Answer]:
    """Wait for the whole text of all `count` sequences.

    Raises:
        MlxdError: the generation failed, or the client left.
    """
    answers = [Answer() for _ in range(count)]
    async for batch in generation.batches():
        for event in batch:
            answer = answers[generation.index(event)]
            match event:
                case Started(_, _, echo):
                    answer.add(echo)
                case Delta(_, text):
                    answer.add(text)
                case Finished():
                    answer.finished = event
    return answers


def sum_usage(ends: Iterable[Finished]) -> Usage:
    """The token counts of a request with one or more sequences."""
    ends = list(ends)
    prompt = sum(end.prompt_tokens for end in ends)
    completion = sum(end.completion_tokens for end in ends)
    return Usage(prompt, completion, prompt + completion)


def usage_of(answers: Sequence[Answer]) -> Usage:
    """The token counts of complete answers."""
    return sum_usage(finished(answer) for answer in answers)


def finished(answer: Answer) -> Finished:
    """How a complete answer ended."""
    if answer.finished is None:
        raise InternalError("An answer ended without its last event.")
    return answer.finished
