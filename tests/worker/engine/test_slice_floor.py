"""The least tokens of a slice follow what slices of each size cost, on devices of known speed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.prefill_budget import (
    FIRST_TOKENS,
    MIN_TOKENS,
    PrefillBudget,
    PrefillLimits,
    Prompt,
    bound_slice_s,
)
from worker.engine.rows.slice_floor import LONGER, LONGEST_S

MAX_TOKENS = 512
PROMPT_TOKENS = 4000


@dataclass
class Device:
    """A slice takes `fixed_s`, and `token_s` for each token; up to `noise` of that is added."""

    fixed_s: float
    token_s: float
    decode_s: float
    noise: float = 0.0

    def __post_init__(self) -> None:
        self._random = Random(0)

    def compute(self, tokens: int) -> float:
        """The seconds of a slice."""
        seconds = self.fixed_s + tokens * self.token_s
        return seconds * (1 + self.noise * self._random.random())

    def prefill(
        self, budget: PrefillBudget, tokens: int = PROMPT_TOKENS
    ) -> list[tuple[int, float]]:
        """Compute a prompt beside one row: the tokens and the seconds of each slice."""
        slices = []
        computed = 0
        while computed < tokens:
            budget.record_step(self.decode_s, 1, 0)
            plan = budget.plan(1, [Prompt(computed, tokens - computed)])
            seconds = self.compute(plan.tokens)
            budget.record_step(self.decode_s + seconds, 1, plan.tokens, computed)
            slices.append((plan.tokens, seconds))
            computed += plan.tokens
        return slices

    @property
    def time_for_a_slice_s(self) -> float:
        return bound_slice_s(self.decode_s)


def make_budget() -> PrefillBudget:
    return PrefillBudget(PrefillLimits(MAX_TOKENS))


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize(
    ("device", "most_times"),
    [
        (Device(0.020, 0.0002, 0.005), 3.0),
        (Device(0.011, 0.0001, 0.002), 4.0),
        (Device(0.040, 0.001, 0.012), 3.0),
        (Device(0.100, 0.0005, 0.012), 8.0),
    ],
)
def test_a_prompt_takes_few_times_what_it_takes_alone_where_a_slice_has_a_fixed_cost(
    device: Device, most_times: float, noise: float
) -> None:
    device = Device(device.fixed_s, device.token_s, device.decode_s, noise)
    taken_s = sum(seconds for _, seconds in device.prefill(make_budget()))
    alone_s = sum(device.compute(MAX_TOKENS) for _ in range(PROMPT_TOKENS // MAX_TOKENS))
    assert taken_s <= most_times * (1 + noise) * alone_s


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("token_s", [0.001, 0.004, 0.02])
def test_slices_stay_short_where_each_token_costs_as_much(token_s: float, noise: float) -> None:
    device = Device(0.0, token_s, 0.01, noise)
    slices = device.prefill(make_budget())
    fitting = max(device.time_for_a_slice_s / token_s, MIN_TOKENS)
    longer = [tokens for tokens, _ in slices if tokens > fitting]
    # The first one, and those that were tried.
    assert len(longer) <= 0.05 * len(slices) + 4
    assert all(tokens <= max(2 * fitting, FIRST_TOKENS) for tokens in longer)


def test_slices_are_short_again_once_they_have_no_fixed_cost() -> None:
    budget = make_budget()
    before = Device(0.040, 0.001, 0.012).prefill(budget)
    assert min(tokens for tokens, _ in before[-30:-1]) > MIN_TOKENS
    after = Device(0.0, 0.004, 0.012).prefill(budget)
    assert sorted(tokens for tokens, _ in after[len(after) // 2 :])[-20] <= MIN_TOKENS


@given(st.floats(0.0, 0.2), st.floats(1e-5, 0.02), st.floats(0.001, 0.1))
def test_a_slice_is_bounded_whatever_it_costs(
    fixed_s: float, token_s: float, decode_s: float
) -> None:
    device = Device(fixed_s, token_s, decode_s)
    slices = device.prefill(make_budget(), 1000)
    shortest_s = device.compute(MIN_TOKENS)
    most_s = max(device.time_for_a_slice_s, LONGEST_S, LONGER * shortest_s)
    # Two are measured before one that is tried can be too long.
    tried = [seconds for _, seconds in slices[1:] if seconds > most_s * 1.001]
    assert all(seconds <= 2 * most_s for seconds in tried)
    assert len(tried) <= 0.05 * len(slices) + 6
