"""A running request, and how its output and its sampling are set up."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from protocol.events import Event, Parting, Progress, Started
from protocol.units import MS_PER_S
from worker.drafts.drafter import Drafter
from worker.engine.engine import Token
from worker.engine.sampler import Constraint, Row, effective_stop_token_ids, make_row
from worker.engine.token_logprobs import PromptScorer
from worker.intake.prepared import PreparedRequest
from worker.models.weight_loader import LoadedModel
from worker.outputs.output_processor import OutputProcessor
from worker.outputs.text import Text
from worker.outputs.thinking_budget import ThinkingBudget
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.scheduler.preemption.shares import PROGRESS_TOKENS, Place
from worker.scheduler.preemption.shortage import Holder


@dataclasses.dataclass(slots=True)
class RunningRequest:
    """One request on the device, its model, and its tokens since it was admitted."""

    model: LoadedModel
    prepared: PreparedRequest
    output: OutputProcessor
    tokens: list[int] = dataclasses.field(default_factory=list)
    # How many tokens it has now, in the prompt and the answer.
    length: int = dataclasses.field(init=False)
    # How many are certainly reserved.
    reserved: int = 0
    # How many tokens of its context are computed, until it has a token.
    prefilled: int = 0
    # The last of the tokens, whose text is not made yet.
    held: list[Token] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.length = len(prepared.prompt) + len(prepared.submit.resume) + len(self.tokens)

    @property
    def client(self) -> str:
        """The client whose request it is."""
        return self.prepared.submit.client

    @property
    def priority(self) -> int:
        """Its priority; a lower one comes first."""
        return self.prepared.submit.priority

    @property
    def has_prompt(self) -> bool:
        """Whether there may be tokens to prefill; the last one is for the first decode step."""
        return not self.tokens and self.prefilled < self.length - 1

    @property
    def is_protected(self) -> bool:
        """Whether it is preempted for memory only for its model's oldest request."""
        return self.prepared.is_bounded or self.length < self.prepared.guaranteed_tokens

    @property
    def tokens_left(self) -> int:
        """How many tokens to sample; at least 1 before the first step.

        For `max_tokens` 0 one token is sampled and dropped.
        """
        generated = len(self.prepared.submit.resume) + len(self.tokens)
        return max(self.prepared.max_tokens, 1) - generated

    def start(self, now: float, loaded_at: float | None) -> Started:
        """Its admission, after its row is inserted; its model was loaded at `loaded_at`."""
        prepared, record = self.prepared, self.output.record
        record.leave_queue(now, prepared.opening_s, prepared.preparation_s, loaded_at)
        self.prefilled = self.output.row.reuse.cached_tokens
        return self.output.start(now, self._find_parting())

    def _find_parting(self) -> Parting | None:
        """Where its prompt parts from the closest known one; None if that has all of it."""
        closest = self.output.row.reuse.closest
        if closest.tokens >= len(self.prepared.prompt):
            return None
        message, role = self.prepared.message_map.find(closest.tokens)
        return Parting(closest.tokens, closest.differs, message, role)

    def advance(self, done: int, total: int, now: float) -> Progress:
        """The progress of its prefill: `done` of the `total` tokens of its context."""
        self.prefilled = done
        record = self.output.record
        elapsed_s = record.in_phase("prefill") + now - record.since
        return Progress(self.prepared.submit.id, done, total, elapsed_s * MS_PER_S)

    def hold(self, token: Token) -> bool:
        """Add the next token, if its text may be made later."""
        if not self.output.may_hold(token):
            return False
        self._append(token)
        self.held.append(token)
        return True

    def make_held(self) -> list[Event]:
        """The events of the tokens that are held."""
        held, self.held = self.held, []
        return self.output.process_held(held) if held else []

    def _append(self, token: Token) -> None:
        self.tokens.append(token.token)
        self.length += 1

    def process(self, token: Token, now: float) -> list[Event]:
        """The events of the next token, after the end of the prefill where that is reported.

        Those of the tokens that are held come first.
        """
        submit = self.prepared.submit
        ends_prefill = submit.progress and not self.tokens and not submit.resume
        self._append(token)
        events = [*self.make_held(), *self.output.process(token, now)]
        if ends_prefill:
            total = len(self.prepared.prompt)
            elapsed_ms = self.output.record.in_ms("prefill")
            events.insert(0, Progress(submit.id, total, total, elapsed_ms))
        return events

    def preempt(
        self, now: float, *, for_memory: bool = False, alone: bool = False
    ) -> PreparedRequest:
        """The request to queue again at time `now`; its generated tokens count as delivered.

        With `alone` it then runs in a batch of its own, as it does if it did before.
        """
        prepared, submit = self.prepared, self.prepared.submit
        resumed = msgspec.structs.replace(submit, resume=submit.resume + self.tokens)
        # The last token is not computed before the next step.
        computed = self.length - 1 if self.tokens else self.prefilled
        record, reuse = self.output.record, self.output.row.reuse
        record.enter("queue", now)
        if self.tokens:
            record.computed_tokens += self.output.planned_tokens
        elif not reuse.shared_tokens:
            record.computed_tokens += max(self.prefilled - reuse.cached_tokens, 0)
        return dataclasses.replace(
            prepared,
            submit=resumed,
            started=True,
            alone=alone or prepared.alone,
            preempted_for_memory=prepared.preempted_for_memory or for_memory,
            computed_tokens=max(computed, prepared.computed_tokens),
            record=record,
            opening_s=0.0,
            preparation_s=0.0,
        )


def in_order_of_arrival(running: Iterable[RunningRequest]) -> list[RunningRequest]:
    """These requests, the oldest first."""
    return sorted(running, key=lambda each: (each.prepared.received_at, each.prepared.submit.id))


def rows_of(model: str, running: Mapping[int, RunningRequest]) -> list[RunningRequest]:
    """The running requests of one model."""
    return [each for each in running.values() if each.model.info.id == model]


def count_clients(model: str, running: Mapping[int, RunningRequest]) -> Counter[str]:
    """How many requests of one model run of each client."""
    return Counter(each.client for each in rows_of(model, running))


def preempt_rows(
    running: Mapping[int, RunningRequest], preempt: Callable[[int], None], model: str
) -> None:
    """Queue all requests of a model again, the newest first: then the oldest is in front."""
    for each in reversed(in_order_of_arrival(rows_of(model, running))):
        preempt(each.prepared.submit.id)


def list_holders(running: Iterable[RunningRequest]) -> list[Holder]:
    """The requests that hold memory, in order of arrival."""
    return [
        Holder(each.prepared.submit.id, each.model.info.id, each.is_protected, each.priority)
        for each in in_order_of_arrival(running)
    ]


def list_places(running: Iterable[RunningRequest]) -> list[Place]:
    """The places of these requests in order of arrival; each model's oldest one is fixed.

    One that was preempted before is fixed until it has made some progress.
    """
    models: set[str] = set()
    places = []
    for each in in_order_of_arrival(running):
        fixed = each.prepared.started and len(each.tokens) < PROGRESS_TOKENS
        fixed = fixed or each.model.info.id not in models
        models.add(each.model.info.id)
        places.append(Place(each.prepared.submit.id, each.client, fixed, each.priority))
    return places


def make_output_processor(model: LoadedModel, prepared: PreparedRequest) -> OutputProcessor:
    """The output processor of this request, after a replay of the tokens delivered before."""
    submit, config = prepared.submit, model.config
    text = config.parsers.create(submit, prepared.prompt)
    stop_token_ids = effective_stop_token_ids(submit.sampling, config.stop_tokens)
    row = make_row(
        submit.sampling,
        config.stop_tokens,
        prompt=prepared.prompt,
        resume=submit.resume,
        constraint=bound_thinking(
            prepared, text, stop_token_ids, make_constraint(prepared, text, stop_token_ids)
        ),
        logprobs=submit.logprobs,
        scorer=make_scorer(prepared),
        priority=submit.priority,
        drafter=make_drafter(prepared) if model.engine.speculates else None,
    )
    return OutputProcessor(
        submit,
        prompt=prepared.prompt,
        drops_first_token=prepared.max_tokens == 0,
        echo=prepared.echo,
        row=row,
        text=text,
        token_bytes=config.token_bytes,
        fingerprint=config.fingerprint,
        ignored=list_ignored(prepared, row),
        dropped_messages=prepared.dropped_messages,
        control_tokens=config.parsers.control_tokens,
        received_at=prepared.received_at,
        record=prepared.record,
    )


def list_ignored(prepared: PreparedRequest, row: Row) -> list[str]:
    """The parameters that are ignored: also the prediction of a row that is never drafted."""
    is_drafted = row.drafter is not None and not row.depends_on_history and not prepared.alone
    is_unused = bool(prepared.submit.prediction) and not is_drafted
    return [*prepared.ignored, *(["prediction"] if is_unused else [])]


def make_drafter(prepared: PreparedRequest) -> Drafter:
    """The drafts of its answer."""
    return Drafter(prepared.prompt, prepared.submit.resume, prepared.prediction)


def make_constraint(
    prepared: PreparedRequest, text: Text, stop_token_ids: frozenset[int]
) -> Constraint | None:
    """The constraint on its tokens: a grammar of the whole answer, or of tool calls in it."""
    if prepared.grammar is None:
        return None
    if prepared.offered_calls is None:
        return prepared.grammar.create_constraint()
    return ToolCallConstraint(text, prepared.grammar, stop_token_ids)


def bound_thinking(
    prepared: PreparedRequest,
    text: Text,
    stop_token_ids: frozenset[int],
    constraint: Constraint | None,
) -> Constraint | None:
    """The constraint that also ends the reasoning at the request's budget, if it has one."""
    budget = prepared.submit.thinking_budget
    end = prepared.config.parsers.thinking_end(prepared.submit)
    if budget is None or end is None:
        return constraint
    return ThinkingBudget(text, budget, end, inner=constraint, stop_token_ids=stop_token_ids)


def make_scorer(prepared: PreparedRequest) -> PromptScorer | None:
    """The scorer of the prompt, if its log-probabilities are requested and not delivered yet."""
    count = prepared.submit.prompt_logprobs
    if count is None or prepared.submit.resume:
        return None
    return PromptScorer(prepared.prompt, count)
