"""Who of those that wait may go to the device: as many as may run at once, and as memory allows.

A request is admitted when its worst case fits: the KV cache of its prompt and of all
the tokens it may have. One that named no number of tokens is promised a stretch at a
time; where the next stretch does not fit it waits in line again, and goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from protocol.messages import ChatPrompt, Rejected
from worker.desk import Prepared
from worker.ledger import Rows
from worker.line import Line
from worker.orders import INSUFFICIENT_MEMORY
from worker.pool import Pool, ResidentModel
from worker.refusal import CONTEXT_LENGTH_EXCEEDED

# What an answer of no set length is promised at a time.
STRETCH_TOKENS = 1024


class Admission:
    """Decides over one line; `wait_s` is how long memory may be waited for."""

    def __init__(
        self,
        pool: Pool,
        line: Line,
        *,
        max_running: int,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._line = line
        self._wait_s = wait_s
        self._clock = clock
        self._blocked_since: dict[str, float] = {}
        self.max_running = max_running
        # Whether so much is in use that nothing more may come.
        self.closed = False

    def next(self, model: ResidentModel) -> Prepared | Rejected | None:
        """The next request of this model that may start now, or cannot ever; None if none may."""
        id = model.info.id
        head = self._line.head(id)
        if head is None or len(model.engine) >= self.max_running:
            return None
        longest = self._longest(model, head)
        wanted = len(head.prompt) + head.max_tokens
        if longest < (wanted if bounded(head) else len(head.context) + 1):
            self._line.pop(id)
            return too_long(head, longest)
        head = dataclasses.replace(head, max_tokens=min(wanted, longest) - len(head.prompt))
        rows = self._pool.ledger.rows[id]
        tokens = first_stretch(head)
        growth = rows.growth(head.submit.id, tokens)
        if self.closed or not self._pool.make_room(growth, self._line, head.received_at):
            self._blocked_since.setdefault(id, self._clock())
            return None
        self._line.pop(id)
        self._blocked_since.pop(id, None)
        rows.promise(head.submit.id, tokens)
        return head

    def extend(self, rows: Rows, prepared: Prepared, tokens: int) -> bool:
        """Whether this sequence, `tokens` long with the next one, may go on; more is promised."""
        promised = rows.promised(prepared.submit.id)
        if tokens <= promised:
            return True
        wanted = min(promised + STRETCH_TOKENS, len(prepared.prompt) + prepared.max_tokens)
        if not self._pool.make_room(rows.growth(prepared.submit.id, wanted), self._line):
            return False
        rows.promise(prepared.submit.id, wanted)
        return True

    def watch(self) -> None:
        """Count for how long models that are waited for have waited for memory themselves."""
        for id in self._line.models:
            if self._pool.is_short(id):
                self._blocked_since.setdefault(id, self._clock())
            elif id not in self._pool:
                self._blocked_since.pop(id, None)

    def expire(self) -> list[Rejected]:
        """Those who waited too long for memory, out of the line."""
        expired = []
        for id, since in list(self._blocked_since.items()):
            if not self._line.all_for(id):
                del self._blocked_since[id]
            elif self._pool.hopeless(id) or self._clock() >= since + self._wait_s:
                expired += self._expire(id)
        return expired

    def _expire(self, id: str) -> list[Rejected]:
        """The first in line, and those behind it that came as long ago."""
        latest = self._clock() - self._wait_s
        waiting = [p for p in self._line.all_for(id) if not p.submit.resume]
        gone = [p for p in waiting if p.received_at <= latest or self._pool.hopeless(id)]
        self._line.remove({p.submit.id for p in gone})
        reason = self._pool.short_of_memory(id)
        return [Rejected(p.submit.id, INSUFFICIENT_MEMORY, reason) for p in gone]

    def _longest(self, model: ResidentModel, prepared: Prepared) -> int:
        """How long this sequence could be with the device to itself."""
        return model.engine.kv_cost.longest_within(
            self._pool.room_alone(model.info.id), len(prepared.prompt) + prepared.max_tokens
        )


def bounded(prepared: Prepared) -> bool:
    """Whether the request says how long its answer may be."""
    return prepared.submit.max_tokens is not None


def first_stretch(prepared: Prepared) -> int:
    """The tokens to promise to begin with."""
    worst = len(prepared.prompt) + prepared.max_tokens
    return worst if bounded(prepared) else min(worst, len(prepared.context) + STRETCH_TOKENS)


def too_long(prepared: Prepared, longest: int) -> Rejected:
    """The refusal of a request that memory could never hold."""
    submit = prepared.submit
    asked = f" and {submit.max_tokens} in the answer" if submit.max_tokens is not None else ""
    message = (
        f"The memory of this server holds {longest} tokens of this model at most, but the request "
        f"has {len(prepared.prompt)} in the prompt{asked}."
    )
    param = "messages" if isinstance(submit.prompt, ChatPrompt) else "prompt"
    return Rejected(submit.id, CONTEXT_LENGTH_EXCEEDED, message, param)
