"""One admitted request: its prompt, its text so far, its count and its timings."""

from __future__ import annotations

from protocol.messages import Delta, Event, Finished, FinishReason, Started, Submit
from worker.sampling import Row
from worker.text import Text

MS_PER_S = 1000.0


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
        received_at: float,
    ) -> None:
        self.id = submit.id
        self.row = row
        self.prompt = prompt
        self._max_tokens = max_tokens
        self._resume = submit.resume
        self._echo = echo
        self._text = text
        self._completion_tokens = 0
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
        """How many tokens may still be drawn; at least 1 before the first step."""
        return self._max_tokens - self._completion_tokens

    def start(self, now: float) -> Started:
        """Mark the admission at monotonic time `now` (seconds)."""
        self._started_at = now
        return Started(self.id, len(self.prompt), self._echo)

    def accept(self, token: int, reason: FinishReason | None, now: float) -> list[Event]:
        """The events of the next token. A stop string met here ends the sequence too."""
        if self._first_token_at is None:
            self._first_token_at = now
        self._completion_tokens += 1
        # A stop token ends the text; it is not part of it.
        text = "" if reason == "stop" else self._text.push(token)
        if reason is not None:
            text += self._text.finish()
        if self._text.stopped:
            reason = "stop"
        delta = Delta(self.id, text, [token])
        return [delta] if reason is None else [delta, self._finish(reason, now)]

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
        )
