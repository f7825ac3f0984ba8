"""What both endpoints make of a generation: its sampling, its whole text, its usage."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from protocol.messages import (
    ArgumentsDelta,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Sampling,
    Started,
    Submit,
    TextDelta,
    TextKind,
    TokenLogprob,
    ToolCallStarted,
)
from service.api.logprob_encoder import LogprobGate
from service.errors import InternalError
from service.inflight.request import InflightRequest
from service.schema.parameters import GenerationRequest
from service.schema.usage import CompletionTokensDetails, PromptTokensDetails, Timings, Usage

SEED_BITS = 63


class Call:
    """A tool call as its arguments grow."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces: list[str] = []

    @property
    def arguments(self) -> str:
        """All of them so far."""
        return "".join(self.pieces)


class Answer:
    """One sequence's text and calls as they grow, and how it ended."""

    def __init__(self) -> None:
        self._pieces: dict[TextKind, list[str]] = {"content": [], "reasoning": []}
        self.calls: list[Call] = []
        self._drawn: list[float] = []
        self.logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces["content"])

    @property
    def reasoning(self) -> str:
        """All reasoning so far."""
        return "".join(self._pieces["reasoning"])

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended; it has."""
        return finished(self).reason

    @property
    def mean_logprob(self) -> float:
        """Of the drawn tokens, where they were scored."""
        return sum(self._drawn) / max(len(self._drawn), 1)

    def add(self, event: Event) -> None:
        """Append what the event brings."""
        match event:
            case Started(_, _, echo):
                self._pieces["content"].append(echo)
            case PromptLogprobs(_, text, logprobs):
                self._pieces["content"].append(text)
                self.logprobs += logprobs
            case TextDelta():
                self._pieces[event.kind].append(event.text)
                self.logprobs += event.logprobs
            case ToolCallStarted(_, _, name):
                self.calls.append(Call(name))
            case ArgumentsDelta(_, index, text):
                self.calls[index].pieces.append(text)
            case Finished():
                self.finished = event

    def weigh(self, drawn: Iterable[TokenLogprob]) -> None:
        """Count these tokens, whether their text is shown or not."""
        self._drawn += [token.logprob for token in drawn if token.logprob is not None]


def to_sampling(request: GenerationRequest) -> Sampling:
    """The request's sampling with OpenAI's defaults; a random seed where none is given."""
    return Sampling(
        seed=secrets.randbits(SEED_BITS) if request.seed is None else request.seed,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        logit_bias=request.biases,
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        stop_tokens=request.stop_token_ids or [],
    )


def to_siblings(submit: Submit, count: int) -> list[Submit]:
    """The same request `count` times, each with a seed of its own."""
    return [
        msgspec.structs.replace(
            submit,
            sampling=msgspec.structs.replace(
                submit.sampling, seed=derive_seed(submit.sampling.seed, index)
            ),
        )
        for index in range(count)
    ]


def derive_seed(seed: int, index: int) -> int:
    """The seed of a request's choice `index`; the first has the request's own."""
    if not index:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


async def collect_answers(generation: InflightRequest, count: int) -> list[Answer]:
    """Wait for the whole text of all `count` sequences.

    Raises:
        MlxdError: the generation failed, or the client left.
    """
    answers = [Answer() for _ in range(count)]
    gate = LogprobGate()
    async for batch in generation.batches():
        for event in batch.events:
            answer = answers[generation.index(event)]
            if isinstance(event, TextDelta):
                answer.weigh(event.logprobs)
            answer.add(gate.admit(event))
    return answers


def best(answers: Sequence[Answer], candidates: int, wanted: int) -> list[Answer]:
    """Of each prompt's `candidates` the `wanted` with the highest mean log-probability.

    Where all are wanted they stay in their order, as in a stream.
    """
    if candidates == wanted:
        return list(answers)
    groups = (answers[n : n + candidates] for n in range(0, len(answers), candidates))
    return [
        answer
        for group in groups
        for answer in sorted(group, key=lambda answer: -answer.mean_logprob)[:wanted]
    ]


def sum_usage(ends: Iterable[Finished], answers_per_prompt: int = 1) -> Usage:
    """The token counts of a request with one or more sequences; ids rise prompt by prompt."""
    ends = sorted(ends, key=lambda end: end.id)
    prompt = sum(end.prompt_tokens for end in ends[::answers_per_prompt])
    completion = sum(end.completion_tokens for end in ends)
    cached = sum(end.cached_tokens for end in ends[::answers_per_prompt])
    details = CompletionTokensDetails(sum(end.reasoning_tokens for end in ends))
    timings = Timings(
        queue_ms=most(end.queue_ms for end in ends),
        prefill_ms=most(end.prefill_ms for end in ends),
        decode_ms=most(end.decode_ms for end in ends),
    )
    return Usage(
        prompt, completion, prompt + completion, PromptTokensDetails(cached), timings, details
    )


def most(milliseconds: Iterable[float]) -> float:
    """The longest of several times, to the microsecond."""
    return round(max(milliseconds, default=0.0), 3)


def usage_of(answers: Sequence[Answer], answers_per_prompt: int = 1) -> Usage:
    """The token counts of complete answers."""
    return sum_usage((finished(answer) for answer in answers), answers_per_prompt)


def finished(answer: Answer) -> Finished:
    """How a complete answer ended."""
    if answer.finished is None:
        raise InternalError("An answer ended without its last event.")
    return answer.finished
