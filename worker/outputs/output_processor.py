"""Turns one running request's tokens into events, with its token counts and timings."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from protocol.deltas import merge_deltas
from protocol.events import (
    Alternative,
    ArgumentsDelta,
    Event,
    Finished,
    FinishReason,
    Parting,
    PromptLogprobs,
    PromptUse,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
)
from protocol.messages import Submit
from protocol.units import MS_PER_S
from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
from worker.engine.batches.speculation.drafted_pass import NO_DRAFTS
from worker.engine.engine import Token
from worker.engine.sampler import Row
from worker.engine.token_logprobs import PromptScorer, Score
from worker.outputs.text import Text
from worker.outputs.text_offsets import text_offsets

# Stands for minus infinity, the logarithm of probability 0, which JSON cannot represent.
LOWEST_LOGPROB = -9999.0
# Of a token that is not UTF-8 by itself; no token has more.
MAX_SPELLED_CHARS = 2**20
EMPTY_DELTA = ContentDelta("")
Phase = Literal["preparation", "load", "queue", "prefill", "decode"]


@dataclass(slots=True)
class AnswerRecord:
    """Where an answer's time and its prompt's tokens went; a preempted answer keeps it.

    Times are seconds, `since` is when `phase` began. All phases together are the time from the
    request's arrival. `use` is that of the first admission; `computed_tokens` are those of the
    admissions that have ended. `accepted_tokens` and `rejected_tokens` count drafted tokens.
    """

    since: float
    phase: Phase = "queue"
    seconds: dict[Phase, float] = field(default_factory=dict)
    has_token: bool = False
    use: PromptUse | None = None
    computed_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    def enter(self, phase: Phase, now: float) -> None:
        """The current phase ends, and this one begins."""
        self.seconds[self.phase] = self.in_phase(self.phase) + max(now - self.since, 0.0)
        self.phase, self.since = phase, now

    def move(self, phase: Phase, seconds: float) -> None:
        """Count this much of the time in the queue for another phase instead."""
        seconds = min(max(seconds, 0.0), self.in_phase("queue"))
        self.seconds["queue"] = self.in_phase("queue") - seconds
        self.seconds[phase] = self.in_phase(phase) + seconds

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were in the cache at the first admission."""
        return 0 if self.use is None else self.use.memory_tokens + self.use.disk_tokens

    def leave_queue(
        self, now: float, opening_s: float, preparation_s: float, loaded_at: float | None
    ) -> None:
        """An admission at `now`: what passed before the queue counts for the phases it was.

        It was `opening_s` for the model's files and then `preparation_s`. The model was loaded
        last at `loaded_at`.
        """
        queued_at = self.since + opening_s + preparation_s
        self.enter("queue", now)
        self.move("load", opening_s)
        self.move("preparation", preparation_s)
        if loaded_at is not None:
            self.move("load", min(loaded_at, now) - queued_at)

    def in_phase(self, phase: Phase) -> float:
        """The seconds in a phase so far, without the current one."""
        return self.seconds.get(phase, 0.0)

    def in_ms(self, phase: Phase) -> float:
        """The milliseconds in a phase so far, without the current one."""
        return self.in_phase(phase) * MS_PER_S


class OutputProcessor:
    """The events of one request; tokens of `submit.resume` are replayed without events.

    `record` is that of an answer that was preempted.
    """

    def __init__(
        self,
        submit: Submit,
        *,
        prompt: list[int],
        drops_first_token: bool = False,
        echo: str,
        row: Row,
        text: Text,
        token_bytes: Callable[[int], bytes],
        fingerprint: str,
        received_at: float,
        ignored: Sequence[str] = (),
        dropped_messages: int = 0,
        control_tokens: Container[int] = (),
        record: AnswerRecord | None = None,
    ) -> None:
        self.id = submit.id
        self.row = row
        self.prompt = prompt
        self._drops_first_token = drops_first_token
        self._echo = echo
        self._text = text
        self._token_bytes = token_bytes
        self._fingerprint = fingerprint
        self._ignored = list(ignored)
        self._dropped_messages = dropped_messages
        self._control_tokens = control_tokens
        self._max_tokens = submit.max_tokens
        self._completion_tokens = 0
        self._context_tokens = len(prompt) + len(submit.resume)
        self.record = record or AnswerRecord(since=received_at)
        # Its text may end the answer, or a constraint or scores need that of each token.
        self._must_process_each = bool(
            submit.stop
            or (submit.calls is not None and not submit.calls.parallel)
            or row.constraint is not None
            or row.logprobs is not None
            or row.scorer is not None
        )
        for token in submit.resume:
            self._completion_tokens += 1
            text.read(token)

    @property
    def planned_tokens(self) -> int:
        """How many tokens this admission computes: what is neither cached nor shared."""
        reuse = self.row.reuse
        return max(self._context_tokens - reuse.cached_tokens - reuse.shared_tokens, 0)

    def start(self, now: float, parted: Parting | None = None) -> Started:
        """The event of the admission at monotonic time `now` (seconds), after its row is inserted.

        `parted` is where the prompt parts from the closest known one.
        """
        record = self.record
        record.enter("prefill", now)
        if record.use is None:
            record.use = self._use(parted)
        planned = record.computed_tokens + self.planned_tokens
        echo = "" if self.row.scorer is not None else self._echo
        return Started(
            id=self.id,
            prompt_tokens=len(self.prompt),
            echo=echo,
            cached_tokens=record.cached_tokens,
            fingerprint=self._fingerprint,
            ignored=self._ignored,
            dropped_messages=self._dropped_messages,
            queue_ms=record.in_ms("queue"),
            preparation_ms=record.in_ms("preparation"),
            load_ms=record.in_ms("load"),
            use=msgspec.structs.replace(record.use, computed_tokens=planned),
        )

    def _use(self, parted: Parting | None) -> PromptUse:
        """Where the prompt's tokens come from; the cache may also have tokens of `resume`."""
        reuse, room = self.row.reuse, len(self.prompt)
        memory = min(reuse.memory_tokens, room)
        disk = min(reuse.disk_tokens, room - memory)
        return PromptUse(
            memory_tokens=memory,
            disk_tokens=disk,
            shared_tokens=min(reuse.shared_tokens, room - memory - disk),
            common_tokens=min(reuse.closest.tokens, room),
            parted=parted,
        )

    def may_hold(self, token: Token) -> bool:
        """Whether the events of a token may be made with those of later ones."""
        if self._must_process_each or self.record.phase != "decode":
            return False
        return token.reason is None and token.fault is None

    def process_held(self, tokens: Sequence[Token]) -> list[Event]:
        """The events of tokens that were held, in as few as there may be."""
        accepted = sum(token.drafted.accepted for token in tokens)
        rejected = sum(token.drafted.rejected for token in tokens)
        self.record.accepted_tokens += accepted
        self.record.rejected_tokens += rejected
        self._completion_tokens += len(tokens)
        ids = [token.token for token in tokens]
        events = self._to_events(self._text.read_all(ids), ids, [], 0)
        if accepted or rejected:
            events[-1] = msgspec.structs.replace(events[-1], accepted=accepted, rejected=rejected)
        return merge_deltas(events)

    def process(self, token: Token, now: float) -> list[Event]:
        """The events of the next token. The sequence also ends if it completes a stop string."""
        record = self.record
        if record.phase != "decode":
            record.enter("decode", now)
        process = self._process_next if record.has_token else self._process_first
        record.has_token = True
        if token.drafted is NO_DRAFTS:
            return process(token, now)
        return self._process_drafted(token, now, process)

    def _process_drafted(
        self, token: Token, now: float, process: Callable[[Token, float], list[Event]]
    ) -> list[Event]:
        """The events of a token of a pass with drafts, with what was right and wrong."""
        record, drafted = self.record, token.drafted
        rejected_before = record.rejected_tokens
        record.accepted_tokens += drafted.accepted
        record.rejected_tokens += drafted.rejected
        events = process(token, now)
        rejected = record.rejected_tokens - rejected_before
        place = next(n for n in reversed(range(len(events))) if isinstance(events[n], TextDelta))
        events[place] = msgspec.structs.replace(
            events[place], accepted=drafted.accepted, rejected=rejected
        )
        return events

    def _process_first(self, token: Token, now: float) -> list[Event]:
        """The events of the first token, after the prompt's log-probabilities if requested."""
        scorer = self.row.scorer
        prompt_events = [self._score_prompt(scorer)] if scorer is not None else []
        if self._drops_first_token:
            return [*prompt_events, self._finish("length", now)]
        return [*prompt_events, *self._process_next(token, now)]

    def _process_next(self, drawn: Token, now: float) -> list[Event]:
        token, reason = drawn.token, drawn.reason
        self._completion_tokens += 1
        start = end = self._text.decoded_chars
        deltas: list[OutputDelta] = []
        # A stop token is not part of the text.
        if reason != "stop":
            start, deltas = self._text.read(token)
            end = self._text.decoded_chars
        if self.row.complete:
            reason = "stop"
        if reason is not None or self._text.stopped:
            deltas += self._text.finish(truncated=reason == "length")
            # The text held back may have completed a stop string.
            if self._text.stopped:
                reason = "stop"
        if reason == "stop" and self._text.has_tool_calls:
            reason = "tool_calls"
        logprobs: list[TokenLogprob] = []
        if drawn.score is not None and drawn.reason != "stop":
            offset = len(self._echo) + max(start, end - self._spelled_chars(token))
            logprobs = [self._to_logprob(drawn.score, offset)]
        settled = self._text.settled() if drawn.score is not None else 0
        events = self._to_events(deltas, [token], logprobs, settled)
        if reason is None:
            return events
        # Of this pass the tokens behind the last one are not in the answer.
        self.record.rejected_tokens += drawn.drafted.behind
        return [*events, self._finish(reason, now)]

    def _to_events(
        self,
        deltas: list[OutputDelta],
        tokens: list[int],
        logprobs: list[TokenLogprob],
        settled: int,
    ) -> list[Event]:
        """The events of these deltas; the last one is a `TextDelta` that carries the tokens."""
        last = deltas[-1] if deltas else None
        if isinstance(last, ContentDelta):
            deltas = deltas[:-1]
        else:
            last = EMPTY_DELTA
        text = TextDelta(self.id, last.text, tokens, logprobs, settled, last.kind)
        return [*(self._to_event(delta, settled) for delta in deltas), text] if deltas else [text]

    def _to_event(self, delta: OutputDelta, settled: int) -> Event:
        match delta:
            case ContentDelta(text, kind):
                return TextDelta(self.id, text, [], [], settled, kind)
            case ToolCallStart(index, name):
                return ToolCallStarted(self.id, index, name)
            case ToolCallArguments(index, text):
                return ArgumentsDelta(self.id, index, text)

    def _spelled_chars(self, token: int) -> int:
        """How many characters a token spells by itself.

        It may also release the end of an incomplete character, which is not its own text.
        """
        try:
            return len(self._token_bytes(token).decode())
        except UnicodeDecodeError:
            return MAX_SPELLED_CHARS

    def _score_prompt(self, scorer: PromptScorer) -> PromptLogprobs:
        tokens = [self._token_bytes(token) for token in self.prompt]
        absent = {n for n, token in enumerate(self.prompt) if token in self._control_tokens}
        starts = text_offsets(self._echo, tokens, absent)
        first = TokenLogprob(self._token_bytes(self.prompt[0]), None, [], next(starts))
        scores = zip(scorer.scores, starts, strict=True)
        rest = [self._to_logprob(score, start) for score, start in scores]
        return PromptLogprobs(self.id, self._echo, [first, *rest])

    def _to_logprob(self, score: Score, offset: int) -> TokenLogprob:
        top = [Alternative(self._token_bytes(token), finite(value)) for token, value in score.top]
        return TokenLogprob(self._token_bytes(score.token), finite(score.logprob), top, offset)

    def _finish(self, reason: FinishReason, now: float) -> Finished:
        record = self.record
        record.enter(record.phase, now)
        computed = record.computed_tokens + self.planned_tokens
        return Finished(
            id=self.id,
            reason=reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=self._completion_tokens,
            queue_ms=record.in_ms("queue"),
            prefill_ms=record.in_ms("prefill"),
            decode_ms=record.in_ms("decode"),
            cached_tokens=record.cached_tokens,
            reasoning_tokens=self._text.reasoning_tokens,
            stopped_by=self._text.stopped_by,
            at_context=reason == "length" and self._has_tokens_left,
            preparation_ms=record.in_ms("preparation"),
            load_ms=record.in_ms("load"),
            use=msgspec.structs.replace(record.use or PromptUse(), computed_tokens=computed),
            accepted_tokens=record.accepted_tokens,
            rejected_tokens=record.rejected_tokens,
        )

    @property
    def _has_tokens_left(self) -> bool:
        """Whether the request's own limit allows more tokens."""
        return self._max_tokens is None or self._completion_tokens < self._max_tokens


def finite(logprob: float) -> float:
    """The log-probability for JSON: -inf and NaN become `LOWEST_LOGPROB`, 0 is the highest."""
    return min(logprob, 0.0) if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB
