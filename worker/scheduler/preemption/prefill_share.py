"""How much of the time prompts take beside the answers of other clients: half.

A slice of prefill takes up to twice as long as the decode step beside it, or longer where the
device computes few tokens slowly. Prompts that follow one another, or whose clients leave in their
prefill and come again, would have two thirds of the time or more for good. So, while a row of
another client decodes, the next slice begins once as much time has passed without prompts as the
last one took: the decode step beside that slice counts, and what one passes beyond the debt is
credit. Texts that are embedded count as prompts.

- Prompts take at most half of the time beside others' answers, and one slice more.
- No prompt starves: each decode step lowers the debt, which is at most `MAX_DEBT_S`, and models
  whose prompts wait take turns.
- A client's prompts beside its own answers alone are not bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from worker.engine.prefill_budget import DeviceShare
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedModel
from worker.scheduler.running import RunningRequest, rows_of

# A prompt that may not be sliced can take minutes: that is no reason to wait for minutes behind it.
MAX_DEBT_S = 1.0


class SliceTurns:
    """The order of the models' slices: names in the order in which they began to wait."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        # Those that were passed over for the first one that waits, since the last turn.
        self._deferred: set[str] = set()

    def wait(self, name: str) -> None:
        """Let a name wait for its turn, if it does not yet."""
        if name not in self._waiting:
            self._waiting.append(name)

    def take(self, name: str) -> bool:
        """Whether it is this name's turn, which it then takes.

        The first one that waits may be gone: then it is the turn of who asks twice before it.
        """
        self.wait(name)
        if name in self._deferred:
            self._waiting.clear()
        elif name != self._waiting[0]:
            self._deferred.add(name)
            return False
        else:
            self._waiting.remove(name)
        self._deferred.clear()
        return True


class PrefillShare:
    """Keeps the debt of prompts to the answers of other clients."""

    def __init__(
        self,
        pool: ModelPool,
        running: Mapping[int, RunningRequest],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._running = running
        self._clock = clock
        self._turns = SliceTurns()
        self._debt_s = 0.0
        self._paid_at = clock()
        # Whether there are prompts that were allowed last; whether they are beside others' answers,
        # and whether there were such ones in this step.
        self.has_prompts = self._is_charged = self._has_slice = False

    def begin_step(self) -> None:
        """The models begin to compute a step each: one slice of all of them may be in it."""
        self._has_slice = False

    def of(self, model: LoadedModel) -> DeviceShare:
        """What the next step of this model may do."""
        id = model.info.id
        others = (other.engine.decode_s for other in self._pool if other is not model)
        prompts = {each.client for each in rows_of(id, self._running) if each.has_prompt}
        return DeviceShare(self.allows(id, prompts), sum(others))

    def allows(self, name: str, clients: Collection[str]) -> bool:
        """Whether prompts of these clients, for the model of this name, may be computed now."""
        self._pay()
        self._is_charged = False
        self.has_prompts = bool(clients)
        if not clients or not self._is_beside_others(clients):
            return True
        if self._debt_s > 0 or self._has_slice:
            self._turns.wait(name)
            is_turn = False
        else:
            is_turn = self._turns.take(name)
        self._is_charged = self.has_prompts = is_turn
        self._has_slice |= is_turn
        return is_turn

    def charge(self, prefill_s: float) -> None:
        """Account for the prompts that were allowed last, and took so long."""
        if self._is_charged:
            taken_s = max(0.0, prefill_s)
            self._debt_s = min(self._debt_s + taken_s, MAX_DEBT_S)
            # The rest of the step pays.
            self._paid_at += taken_s
            self._is_charged = False

    def _pay(self) -> None:
        """Pay the debt with the time since this was called last.

        Without the credit prompts would have a third of the time where a slice takes twice as
        long as a step. It is a step at most, so that a pause is no reason for two slices at once.
        """
        now = self._clock()
        step_s = sum(model.engine.decode_s for model in self._pool)
        self._debt_s = max(self._debt_s - (now - self._paid_at), -step_s)
        self._paid_at = now

    def _is_beside_others(self, clients: Collection[str]) -> bool:
        decoding = {each.client for each in self._running.values() if each.tokens}
        return bool(decoding) and len(decoding.union(clients)) > 1
