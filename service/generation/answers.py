"""What all dialects share: sampling parameters, collected answers and usage."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from protocol.events import (
    ArgumentsDelta,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Started,
    TextDelta,
    TextKind,
    TokenLogprob,
    ToolCallStarted,
)
from protocol.messages import Sampling, Submit
from protocol.model_states import ModelDefaults
from service.errors import InternalError
from service.generation.logprob_encoder import LogprobGate
from service.inflight.request import InflightRequest
from service.schema.parameters import SamplingRequest
from service.schema.usage import (
    CompletionTokensDetails,
    MlxdUsage,
    PromptTokensDetails,
    Usage,
    to_parted,
)

SEED_BITS = 63
# The parameters that a model's own files may set.
LEFT_TO_THE_MODEL = ModelDefaults.__struct_fields__


class Call:
    """A tool call whose arguments arrive in parts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[str] = []

    @property
    def arguments(self) -> str:
        """The arguments received so far."""
        return "".join(self.parts)


class Passage:
    """Text of one kind that arrives in parts, without a call or another kind in between."""

    def __init__(self, kind: TextKind) -> None:
        self.kind = kind
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self.pieces)


class Answer:
    """The text, tool calls and end of one sequence, collected from its events.

    `parts` are its passages and calls in the order in which they began.
    """

    def __init__(self) -> None:
        self.parts: list[Passage | Call] = []
        self.calls: list[Call] = []
        self._sampled_logprobs: list[float] = []
        self.logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        """The content received so far."""
        return self._join("content")

    @property
    def reasoning(self) -> str:
        """The reasoning received so far."""
        return self._join("reasoning")

    @property
    def finish_reason(self) -> FinishReason:
        """Why the sequence ended.

        Raises:
            InternalError: it has not ended.
        """
        return finish_of(self).reason

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the sampled tokens; 0 where none were requested."""
        return sum(self._sampled_logprobs) / max(len(self._sampled_logprobs), 1)

    def add(self, event: Event) -> None:
        """Append the event's text, tool call or end."""
        match event:
            case Started():
                self._append("content", event.echo)
            case PromptLogprobs():
                self._append("content", event.text)
                self.logprobs += event.logprobs
            case TextDelta():
                self._append(event.kind, event.text)
                self.logprobs += event.logprobs
            case ToolCallStarted():
                self.calls.append(Call(event.name))
                self.parts.append(self.calls[-1])
            case ArgumentsDelta():
                self.calls[event.index].parts.append(event.text)
            case Finished():
                self.finished = event

    def _join(self, kind: TextKind) -> str:
        passages = (part for part in self.parts if isinstance(part, Passage))
        return "".join(passage.text for passage in passages if passage.kind == kind)

    def _append(self, kind: TextKind, text: str) -> None:
        if not text:
            return
        last = self.parts[-1] if self.parts else None
        if not isinstance(last, Passage) or last.kind != kind:
            last = Passage(kind)
            self.parts.append(last)
        last.pieces.append(text)

    def add_sampled(self, tokens: Iterable[TokenLogprob]) -> None:
        """Include sampled tokens in `mean_logprob`, whether their text is released or not."""
        self._sampled_logprobs += [t.logprob for t in tokens if t.logprob is not None]


def to_sampling(request: SamplingRequest) -> Sampling:
    """The request's sampling with OpenAI's defaults; a random seed if the request has none.

    The worker replaces the defaults of `unset` parameters where the model's files set others.
    """
    # The most likely token alone is left, as with a temperature of 0.
    is_greedy = request.top_p == 0
    temperature = 1.0 if request.temperature is None else request.temperature
    return Sampling(
        seed=secrets.randbits(SEED_BITS) if request.seed is None else request.seed,
        temperature=0.0 if is_greedy else temperature,
        top_p=1.0 if request.top_p is None or is_greedy else request.top_p,
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        repetition_context=request.repetition_context_size or 0,
        logit_bias=request.biases,
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        stop_tokens=request.stop_token_ids or [],
        unset=[
            name
            for name in LEFT_TO_THE_MODEL
            if getattr(request, name) is None and not (is_greedy and name == "temperature")
        ],
    )


def to_siblings(submit: Submit, count: int) -> list[Submit]:
    """`count` copies of the sequence, each with its own seed."""
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
    """The seed of a request's choice `index`; choice 0 uses the request's seed."""
    if not index:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


async def collect_answers(inflight: InflightRequest, count: int) -> list[Answer]:
    """Wait until all `count` sequences of a request have ended.

    Raises:
        MlxdError: the generation failed, or the client disconnected.
    """
    answers = [Answer() for _ in range(count)]
    gate = LogprobGate()
    async for batch in inflight.batches():
        for event in batch.events:
            answer = answers[inflight.index(event)]
            if isinstance(event, TextDelta):
                answer.add_sampled(event.logprobs)
            answer.add(gate.admit(event))
    return answers


def select_best(answers: Sequence[Answer], candidates: int, choices: int) -> list[Answer]:
    """The `choices` answers of each prompt with the highest mean log-probability.

    Each prompt has `candidates` answers. If all are selected, they keep their order, as in a
    stream.
    """
    if candidates == choices:
        return list(answers)
    groups = (answers[n : n + candidates] for n in range(0, len(answers), candidates))
    return [
        answer
        for group in groups
        for answer in sorted(group, key=lambda answer: -answer.mean_logprob)[:choices]
    ]


def sum_usage(ends: Iterable[Finished], answers_per_prompt: int = 1) -> Usage:
    """The token counts of a request. Sequence ids are consecutive within each prompt."""
    ends = sorted(ends, key=lambda end: end.id)
    prompt = sum(end.prompt_tokens for end in ends[::answers_per_prompt])
    completion = sum(end.completion_tokens for end in ends)
    cached = sum(end.cached_tokens for end in ends[::answers_per_prompt])
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached),
        mlxd=describe_use(ends, answers_per_prompt),
        completion_tokens_details=details_of(ends),
    )


def details_of(ends: Iterable[Finished]) -> CompletionTokensDetails:
    """The tokens of complete answers by their kind."""
    counts = [(end.reasoning_tokens, end.accepted_tokens, end.rejected_tokens) for end in ends]
    return CompletionTokensDetails(*(sum(each) for each in zip(*counts, strict=True)))


def describe_use(ends: Sequence[Finished], answers_per_prompt: int = 1) -> MlxdUsage:
    """Where the time and the prompts' tokens went; `ends` are in the order of the sequences."""
    uses = [end.use for end in ends]
    # What is cached counts once for each prompt, as the prompt does.
    first_uses = uses[::answers_per_prompt]
    return MlxdUsage(
        queue_ms=longest_ms(end.queue_ms for end in ends),
        prefill_ms=longest_ms(end.prefill_ms for end in ends),
        decode_ms=longest_ms(end.decode_ms for end in ends),
        preparation_ms=longest_ms(end.preparation_ms for end in ends),
        load_ms=longest_ms(end.load_ms for end in ends),
        restart_ms=longest_ms(end.restart_ms for end in ends),
        memory_tokens=sum(use.memory_tokens for use in first_uses),
        disk_tokens=sum(use.disk_tokens for use in first_uses),
        shared_tokens=sum(use.shared_tokens for use in uses),
        computed_tokens=sum(use.computed_tokens for use in uses),
        common_tokens=uses[0].common_tokens if uses else 0,
        parted=to_parted(uses[0].parted) if uses else None,
        accepted_prediction_tokens=sum(end.accepted_tokens for end in ends),
        rejected_prediction_tokens=sum(end.rejected_tokens for end in ends),
    )


class UsageCounter:
    """The token counts of a request while it is answered, without timings."""

    def __init__(self, answers_per_prompt: int) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._prompt_tokens = 0
        self._cached_tokens = 0
        # By the index of the sequence.
        self._completion_tokens: dict[int, int] = {}
        self._ends: list[Finished] = []

    def add(self, index: int, event: Event) -> None:
        """Count one event of sequence `index`."""
        match event:
            case Started() if index % self._answers_per_prompt == 0:
                self._prompt_tokens += event.prompt_tokens
                self._cached_tokens += event.cached_tokens
            case TextDelta(tokens=tokens):
                count = self._completion_tokens.get(index, 0)
                self._completion_tokens[index] = count + len(tokens)
            case Finished():
                self._completion_tokens[index] = event.completion_tokens
                self._ends.append(event)

    @property
    def usage(self) -> Usage:
        """The counts so far; those of a kind are counted at the sequence's end."""
        completion = sum(self._completion_tokens.values())
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion,
            total_tokens=self._prompt_tokens + completion,
            prompt_tokens_details=PromptTokensDetails(self._cached_tokens),
            completion_tokens_details=details_of(self._ends),
        )


def longest_ms(times: Iterable[float]) -> float:
    """The longest of several times in milliseconds, rounded to the microsecond."""
    return round(max(times, default=0.0), 3)


def usage_of(answers: Sequence[Answer], answers_per_prompt: int = 1) -> Usage:
    """The token counts of complete answers."""
    return sum_usage((finish_of(answer) for answer in answers), answers_per_prompt)


def finish_of(answer: Answer) -> Finished:
    """The last event of a complete answer.

    Raises:
        InternalError: the answer is not complete.
    """
    if answer.finished is None:
        raise InternalError("An answer ended without its last event.")
    return answer.finished
