"""Shortage: which running request is preempted so that another one can grow, as a pure function.

The newest request of the same model is preempted, of those with the highest `priority`, which
come last, as in vLLM; never a model's oldest one. If that is
the one that must grow, newer requests of other models are. Their oldest one is preempted
last, so of two models that compete the older request goes on. A request is `protected` while
it uses what was reserved at its admission: it is preempted only for a model's oldest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """One running request, which holds memory."""

    id: int
    model: str
    protected: bool = False
    priority: int = 0


def preempt_for_memory(running: Sequence[Holder], growing: int) -> int:
    """The id to preempt so that the request `growing` can grow; its own if it has to yield.

    `running` is in order of arrival.
    """
    [position] = [n for n, each in enumerate(running) if each.id == growing]
    model = running[position].model
    oldest = list_oldest(running)
    own = [
        each
        for each in reversed(running)
        if each.model == model and each.id not in oldest and not each.protected
    ]
    if own:
        return max(own, key=lambda each: each.priority).id
    if growing not in oldest:
        return growing
    younger = reversed(running[position + 1 :])
    yielding = min(
        younger,
        key=lambda each: (each.id in oldest, each.protected, -each.priority),
        default=None,
    )
    return growing if yielding is None else yielding.id


def list_oldest(running: Sequence[Holder]) -> set[int]:
    """The id of each model's oldest request; `running` is in order of arrival."""
    return set({each.model: each.id for each in reversed(running)}.values())
