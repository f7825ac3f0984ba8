"""Where a sequence's time went in attempts that no worker finished: they are added, not lost.

A worker tells at the end of an answer where the time of its own attempt went. What a sequence
spent on a worker that died, or from which it was withdrawn, and without a worker, is kept here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import msgspec

from protocol.events import Finished, Progress, PromptUse, Started, TextDelta
from protocol.units import MS_PER_S

Stage = Literal["restart", "queue", "prefill", "decode"]
Phase = Stage | Literal["preparation", "load"]


class Attempts:
    """The attempts of one sequence. `now` is monotonic time in seconds."""

    __slots__ = (
        "_accepted_tokens",
        "_computed_tokens",
        "_lost_ms",
        "_phase",
        "_prefill_s",
        "_prefilled",
        "_rejected_tokens",
        "_since",
        "_started",
        "_use",
        "began_at",
    )

    def __init__(self, now: float) -> None:
        self._phase: Stage = "restart"
        self.began_at = self._since = now
        self._lost_ms: defaultdict[Phase, float] = defaultdict(float)
        # What the first attempt found in the cache.
        self._use: PromptUse | None = None
        self._computed_tokens = 0
        # Of drafted tokens, up to the start of the attempt in progress and in it.
        self._accepted_tokens = [0, 0]
        self._rejected_tokens = [0, 0]
        # Of the attempt in progress: its start, the time of its prefill once that has ended, and
        # how many tokens were ready at its last report.
        self._started: Started | None = None
        self._prefill_s = 0.0
        self._prefilled = 0

    @property
    def stage(self) -> Stage:
        """Where the sequence is now."""
        return self._phase

    @property
    def prompt_tokens(self) -> int | None:
        """How many tokens the prompt has, once a worker has admitted the sequence."""
        return None if self._started is None else self._started.prompt_tokens

    @property
    def ready_tokens(self) -> int:
        """How many of the prompt's tokens are computed or were cached."""
        if self._started is None:
            return 0
        total = self._started.prompt_tokens
        return total if self.has_token else min(self._prefilled, total)

    @property
    def has_token(self) -> bool:
        """Whether the attempt in progress has a token."""
        return self._phase == "decode"

    def submit(self, now: float) -> None:
        """A worker gets the sequence; at the time of its start it has not waited for one."""
        if now > self._since:
            self._lose("restart", now)
        self._phase, self._since = "queue", now

    def start(self, event: Started, now: float) -> None:
        """The worker has admitted the sequence."""
        self._started = event
        self._use = self._use or event.use
        self._prefilled = event.cached_tokens
        self._phase, self._since = "prefill", now

    def advance(self, event: Progress) -> None:
        """The worker has computed a part of the prompt."""
        self._prefilled = event.done

    def receive_token(self, now: float) -> None:
        """The first token of the attempt has arrived."""
        self._prefill_s = now - self._since
        self._phase, self._since = "decode", now

    def count_drafts(self, event: TextDelta) -> None:
        """Count the drafted tokens of the attempt in progress."""
        self._accepted_tokens[1] += event.accepted
        self._rejected_tokens[1] += event.rejected

    def withdraw(self, now: float) -> None:
        """The worker is lost, or does not have the sequence any more."""
        if self._phase == "restart":
            return
        if (started := self._started) is not None:
            self._lost_ms["preparation"] += started.preparation_ms
            self._lost_ms["load"] += started.load_ms
            self._lost_ms["queue"] += started.queue_ms
            self._computed_tokens += self._count_computed(started)
        self._lost_ms["prefill"] += self._prefill_s * MS_PER_S
        self._lose(self._phase, now)
        self._phase, self._since, self._started = "restart", now, None
        self._prefill_s = 0.0
        for counts in (self._accepted_tokens, self._rejected_tokens):
            counts[:] = [sum(counts), 0]

    def complete(self, event: Finished) -> Finished:
        """The last event, with what earlier attempts have spent."""
        if not self._lost_ms:
            return event
        use = msgspec.structs.replace(
            self._use or event.use,
            computed_tokens=event.use.computed_tokens + self._computed_tokens,
        )
        lost = self._lost_ms
        return msgspec.structs.replace(
            event,
            queue_ms=event.queue_ms + lost["queue"],
            prefill_ms=event.prefill_ms + lost["prefill"],
            decode_ms=event.decode_ms + lost["decode"],
            preparation_ms=event.preparation_ms + lost["preparation"],
            load_ms=event.load_ms + lost["load"],
            restart_ms=event.restart_ms + lost["restart"],
            cached_tokens=use.memory_tokens + use.disk_tokens,
            use=use,
            accepted_tokens=event.accepted_tokens + self._accepted_tokens[0],
            rejected_tokens=event.rejected_tokens + self._rejected_tokens[0],
        )

    def _count_computed(self, started: Started) -> int:
        """How many tokens the attempt has computed, as far as it has reported it."""
        if self._phase == "decode":
            return started.use.computed_tokens
        if started.use.shared_tokens:
            return 0
        return max(self._prefilled - started.cached_tokens, 0)

    def _lose(self, phase: Phase, now: float) -> None:
        self._lost_ms[phase] += (now - self._since) * MS_PER_S
