"""Which prompts form the next prefill batch: in turns, by the budget, and by the model's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.batching import BatchRules
from worker.engine.batches.prefill_turns import PrefillTurns, Turn
from worker.engine.prefill_budget import PrefillBudget, Prompt, Slice


@dataclass(frozen=True, slots=True)
class WaitingPrompt:
    """A prompt that is in no batch yet. A row that is `alone` shares no prefill."""

    uid: int
    prompt: Prompt
    alone: bool
    priority: int = 0

    @property
    def turn(self) -> Turn:
        """What the order of turns depends on."""
        return Turn(self.priority, self.prompt.left, self.uid)


class PrefillPlanner:
    """Plans the slices of one model; `rules` say which prompts may share one."""

    def __init__(self, budget: PrefillBudget) -> None:
        self.rules = BatchRules()
        self._budget = budget
        self._turns = PrefillTurns()

    def plan(self, decoding_rows: int, prompts: Sequence[Prompt]) -> Slice:
        """The next slice of these prompts, which are in the order of preference."""
        return self._budget.plan(decoding_rows, prompts, whole=not self.rules.slices_prompts)

    def group_computed(self, waiting: Sequence[WaitingPrompt]) -> list[list[int]]:
        """The uids of each batch of the prompts of which all but the last token is cached."""
        computed = [each for each in waiting if not each.prompt.left]
        shared = [each.uid for each in computed if self._shares(each)]
        alone = [[each.uid] for each in computed if not self._shares(each)]
        return [shared, *alone] if shared else alone

    def choose(
        self,
        prefills: Sequence[Turn],
        waiting: Sequence[WaitingPrompt],
        decoding_rows: int,
    ) -> int | list[int] | None:
        """The index of the batch that is next, or the uids of a new one; None if all is done."""
        order = self._turns.order([*prefills, *(prompt.turn for prompt in waiting)])
        if not order:
            return None
        if order[0] < len(prefills):
            return order[0]
        behind = [waiting[index - len(prefills)] for index in order if index >= len(prefills)]
        joining = [each for each in behind if self._shares(each)]
        if not self._shares(behind[0]):
            joining = behind[:1]
        plan = self.plan(decoding_rows, [each.prompt for each in joining])
        return [each.uid for each in joining[: plan.rows]]

    def _shares(self, prompt: WaitingPrompt) -> bool:
        return self.rules.batching == "full" and not prompt.alone
