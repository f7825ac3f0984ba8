"""Turns one running request's tokens into events, with its token counts and timings."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from protocol.events import (
    Alternative,
    ArgumentsDelta,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
)
from protocol.messages import Submit
from protocol.units import MS_PER_S
from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
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


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """When an answer was admitted first, and got its first token, in monotonic seconds.

    `cached_tokens` of its prompt were in the cache then.
    """

    started_at: float
    first_token_at: float | None
    cached_tokens: int


class OutputProcessor:
    """The events of one request; tokens of `submit.resume` are replayed without events.

    `times` are those of an answer that was preempted.
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
        times: AnswerTimes | None = None,
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
        self._received_at = received_at
        times = times or AnswerTimes(received_at, None, 0)
        self._cached_tokens = times.cached_tokens
        self._started_at = times.started_at
        self._first_token_at = times.first_token_at
        for token in submit.resume:
            self._completion_tokens += 1
            text.read(token)

    @property
    def times(self) -> AnswerTimes:
        """The times so far, for a processor that continues this answer."""
        return AnswerTimes(self._started_at, self._first_token_at, self._cached_tokens)

    def start(self, now: float, cached_tokens: int = 0) -> Started:
        """The event of the admission at monotonic time `now` (seconds)."""
        self._started_at = now
        # The cache may also hold tokens of `resume`, which are not part of the prompt.
        self._cached_tokens = min(cached_tokens, len(self.prompt))
        echo = "" if self.row.scorer is not None else self._echo
        return Started(
            id=self.id,
            prompt_tokens=len(self.prompt),
            echo=echo,
            cached_tokens=self._cached_tokens,
            fingerprint=self._fingerprint,
            ignored=self._ignored,
            dropped_messages=self._dropped_messages,
        )

    def process(self, token: Token, now: float) -> list[Event]:
        """The events of the next token. The sequence also ends if it completes a stop string."""
        if self._first_token_at is None:
            return self._process_first(token, now)
        return self._process_next(token, now)

    def _process_first(self, token: Token, now: float) -> list[Event]:
        """The events of the first token, after the prompt's log-probabilities if requested."""
        self._first_token_at = now
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
        events = self._to_events(deltas, token, logprobs, settled)
        return events if reason is None else [*events, self._finish(reason, now)]

    def _to_events(
        self, deltas: list[OutputDelta], token: int, logprobs: list[TokenLogprob], settled: int
    ) -> list[Event]:
        """The events of these deltas; the last one is a `TextDelta` that carries the token."""
        last = deltas[-1] if deltas else None
        if isinstance(last, ContentDelta):
            deltas = deltas[:-1]
        else:
            last = EMPTY_DELTA
        events = [self._to_event(delta, settled) for delta in deltas]
        events.append(TextDelta(self.id, last.text, [token], logprobs, settled, last.kind))
        return events

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
        first = self._first_token_at if self._first_token_at is not None else now
        return Finished(
            id=self.id,
            reason=reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=self._completion_tokens,
            queue_ms=(self._started_at - self._received_at) * MS_PER_S,
            prefill_ms=(first - self._started_at) * MS_PER_S,
            decode_ms=(now - first) * MS_PER_S,
            cached_tokens=self._cached_tokens,
            reasoning_tokens=self._text.reasoning_tokens,
            stopped_by=self._text.stopped_by,
            at_context=reason == "length" and self._has_tokens_left,
        )

    @property
    def _has_tokens_left(self) -> bool:
        """Whether the request's own limit allows more tokens."""
        return self._max_tokens is None or self._completion_tokens < self._max_tokens


def finite(logprob: float) -> float:
    """The log-probability for JSON: -inf and NaN become `LOWEST_LOGPROB`, 0 is the highest."""
    return min(logprob, 0.0) if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB
