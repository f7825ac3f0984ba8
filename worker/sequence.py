"""One admitted request: its prompt, its text so far, its count and its timings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from protocol.messages import (
    Alternative,
    CallArguments,
    CallOpened,
    Delta,
    Event,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    Submit,
    TokenLogprob,
)
from worker.calls.offered import OfferedCalls
from worker.desk import Prepared
from worker.engine import Token
from worker.loading import ResidentModel
from worker.logprobs import PromptScorer, Score
from worker.pieces import Arguments, Opened, Piece, Said
from worker.sampling import Constraint, Row, make_row
from worker.text import Text

MS_PER_S = 1000.0
# What stands for a probability of nothing, which JSON cannot write as a logarithm.
LOWEST_LOGPROB = -9999.0
NOTHING_SAID = Said("")


class Sequence:
    """Turns the tokens of one request into its events."""

    def __init__(
        self,
        submit: Submit,
        *,
        prompt: list[int],
        max_tokens: int,
        echo: str,
        row: Row,
        text: Text,
        token_bytes: Callable[[int], bytes],
        fingerprint: str,
        received_at: float,
    ) -> None:
        self.id = submit.id
        self.row = row
        self.prompt = prompt
        self._max_tokens = max_tokens
        self._resume = submit.resume
        self._echo = echo
        self._text = text
        self._token_bytes = token_bytes
        self._fingerprint = fingerprint
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._received_at = received_at
        self._started_at = received_at
        self._first_token_at: float | None = None
        for token in submit.resume:
            self._completion_tokens += 1
            text.push(token)

    @property
    def context(self) -> list[int]:
        """The token ids to prefill: the prompt and what an earlier worker delivered."""
        return self.prompt + self._resume

    @property
    def tokens_left(self) -> int:
        """How many tokens to draw; at least 1 before the first step.

        One is drawn, and dropped, where an answer of none is asked for.
        """
        return max(self._max_tokens, 1) - self._completion_tokens

    def start(self, now: float, cached_tokens: int = 0) -> Started:
        """Mark the admission at monotonic time `now` (seconds); so many tokens need no prefill."""
        self._started_at = now
        # What an earlier worker had generated is no part of the prompt.
        self._cached_tokens = min(cached_tokens, len(self.prompt))
        echo = "" if self.row.scorer is not None else self._echo
        return Started(self.id, len(self.prompt), echo, self._cached_tokens, self._fingerprint)

    def accept(self, token: Token, now: float) -> list[Event]:
        """The events of the next token. A stop string met here ends the sequence too."""
        if self._first_token_at is None:
            return self._begin(token, now)
        return self._extend(token, now)

    def _begin(self, token: Token, now: float) -> list[Event]:
        """The events of the first token, after the scores of the prompt if it has a scorer."""
        self._first_token_at = now
        scorer = self.row.scorer
        scored = [self._score_prompt(scorer)] if scorer is not None else []
        if not self._max_tokens:
            return [*scored, self._finish("length", now)]
        return [*scored, *self._extend(token, now)]

    def _extend(self, drawn: Token, now: float) -> list[Event]:
        token, reason = drawn.token, drawn.reason
        begin = len(self._echo) + self._text.decoded
        self._completion_tokens += 1
        # A stop token ends the text; it is not part of it.
        pieces = [] if reason == "stop" else self._text.push(token)
        if self.row.complete:
            reason = "stop"
        if reason is not None or self._text.stopped:
            pieces += self._text.finish(cut=reason == "length")
            # What was held back may have completed a stop string.
            if self._text.stopped:
                reason = "stop"
        if reason == "stop" and self._text.called:
            reason = "tool_calls"
        logprobs: list[TokenLogprob] = []
        if drawn.score is not None and drawn.reason != "stop":
            logprobs = [self._to_logprob(drawn.score, begin)]
        settled = self._text.settled() if drawn.score is not None else 0
        events = self._tell(pieces, token, logprobs, settled)
        return events if reason is None else [*events, self._finish(reason, now)]

    def _tell(
        self, pieces: list[Piece], token: int, logprobs: list[TokenLogprob], settled: int
    ) -> list[Event]:
        """The events of these pieces; the last has their token, and its text where it has any."""
        last = pieces[-1] if pieces else None
        if isinstance(last, Said):
            pieces = pieces[:-1]
        else:
            last = NOTHING_SAID
        events = [self._to_event(piece, settled) for piece in pieces]
        events.append(Delta(self.id, last.text, [token], logprobs, settled, last.channel))
        return events

    def _to_event(self, piece: Piece, settled: int) -> Event:
        match piece:
            case Said(text, channel):
                return Delta(self.id, text, [], [], settled, channel)
            case Opened(index, name):
                return CallOpened(self.id, index, name)
            case Arguments(index, text):
                return CallArguments(self.id, index, text)

    def _score_prompt(self, scorer: PromptScorer) -> PromptScored:
        places = offsets(self._echo, map(self._token_bytes, self.prompt))
        first = TokenLogprob(self._token_bytes(self.prompt[0]), None, [], next(places))
        rest = [self._to_logprob(*scored) for scored in zip(scorer.scores, places, strict=True)]
        return PromptScored(self.id, self._echo, [first, *rest])

    def _to_logprob(self, score: Score, offset: int) -> TokenLogprob:
        top = [Alternative(self._token_bytes(token), finite(value)) for token, value in score.top]
        return TokenLogprob(self._token_bytes(score.token), finite(score.logprob), top, offset)

    def _finish(self, reason: FinishReason, now: float) -> Finished:
        first = self._first_token_at if self._first_token_at is not None else now
        return Finished(
            self.id,
            reason,
            len(self.prompt),
            self._completion_tokens,
            queue_ms=(self._started_at - self._received_at) * MS_PER_S,
            prefill_ms=(first - self._started_at) * MS_PER_S,
            decode_ms=(now - first) * MS_PER_S,
            cached_tokens=self._cached_tokens,
            reasoning_tokens=self._text.reasoning_tokens,
        )


def offsets(text: str, tokens: Iterable[bytes]) -> Iterator[int]:
    """Where each token's text begins in `text`; one that is not in it takes no room."""
    written, place, characters = text.encode(), 0, 0
    for token in tokens:
        yield characters
        if written.startswith(token, place):
            place += len(token)
            characters += sum(byte & 0xC0 != 0x80 for byte in token)


def finite(logprob: float) -> float:
    """A number that JSON can hold: -inf, and what no model should give, is the lowest."""
    return min(logprob, 0.0) if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def make_sequence(model: ResidentModel, prepared: Prepared) -> Sequence:
    """The request as a sequence of this model, replayed up to where it had come."""
    submit = prepared.submit
    return Sequence(
        submit,
        prompt=prepared.prompt,
        max_tokens=prepared.max_tokens,
        echo=prepared.echo,
        row=make_row(
            submit.sampling,
            model.stop_tokens,
            prompt=prepared.prompt,
            resume=submit.resume,
            constraint=make_constraint(model, prepared),
            logprobs=submit.logprobs,
            scorer=make_scorer(prepared),
        ),
        text=model.answers.begin(submit, prepared.prompt),
        token_bytes=model.blueprint.token_bytes,
        fingerprint=model.blueprint.fingerprint,
        received_at=prepared.received_at,
    )


def make_constraint(model: ResidentModel, prepared: Prepared) -> Constraint | None:
    """What limits its tokens: its grammar all along, or that of offered calls within them."""
    if prepared.grammar is None:
        return None
    if prepared.offered is None:
        return prepared.grammar.begin()
    return OfferedCalls(model.answers.begin(prepared.submit, prepared.prompt), prepared.grammar)


def make_scorer(prepared: Prepared) -> PromptScorer | None:
    """What scores the prompt, where that was asked for and is not told yet."""
    count = prepared.submit.prompt_logprobs
    if count is None or prepared.submit.resume:
        return None
    return PromptScorer(prepared.prompt, count)
