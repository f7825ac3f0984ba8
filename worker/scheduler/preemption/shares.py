"""Shares: which running requests make room for other clients, as a pure function.

While another client waits, no client keeps more than half of the places. What it holds above
that is preempted, as much as the others need: of its requests those of the highest `priority`,
which come last, and of these the newest. A model's oldest request is
never preempted. A request that has been preempted before makes `PROGRESS_TOKENS` tokens
before it can be preempted again, so what is computed twice is bounded by what is generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# More than the margin by which a request is confirmed after a crash would only delay the others.
PROGRESS_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Place:
    """One running request. `fixed`: it may not be preempted now."""

    id: int
    client: str
    fixed: bool = False
    priority: int = 0


def preempt_for_shares(
    running: Sequence[Place], waiting: Mapping[str, int], places: int
) -> list[int]:
    """The ids to preempt, in this order; `running` is in order of arrival.

    `waiting` is how many requests of each client wait, `places` how many may run.
    """
    held = Counter(place.client for place in running)
    share = share_of(places)
    client = next((client for client, count in held.items() if count > share), None)
    if client is None:
        return []
    others = (
        min(count, share - held[other])
        for other, count in waiting.items()
        if other != client and held[other] < share
    )
    needed = sum(others) - max(places - len(running), 0)
    excess = max(min(needed, held[client] - share), 0)
    own = [place for place in reversed(running) if place.client == client and not place.fixed]
    own.sort(key=lambda place: -place.priority)
    return [place.id for place in own[:excess]]


def share_of(places: int) -> int:
    """Half of the places, at least one."""
    return max(places // 2, 1)
