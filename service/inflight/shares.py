"""Shares of the places in flight: which requests are refused for other clients.

A client alone may use all places. While another client waits, no client gets a place above
half. If all places are taken, the newest requests that have not started, of a client above
half, are refused to make room for a client below it. Where all of these have started, such a
client gets a place beyond the limit: the worker preempts for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Up to this part of the places, at least one, may be taken beyond the limit.
EXTRA_PART = 8


@dataclass(slots=True)
class PlacesOfRequest:
    """The places of one request: the ids of its sequences."""

    client: str
    ids: list[int] = field(default_factory=list)
    started: bool = False


def is_above_share(
    requests: Iterable[PlacesOfRequest], client: str, count: int, places: int
) -> bool:
    """Whether `count` more places take `client` above half while another client waits."""
    held, others_wait = 0, False
    for request in requests:
        if request.client == client:
            held += len(request.ids)
        elif not request.started:
            others_wait = True
    return others_wait and held + count > share_of(places)


def refuse_for_shares(
    requests: Sequence[PlacesOfRequest], client: str, count: int, places: int
) -> list[PlacesOfRequest] | None:
    """What to refuse so that `client` gets `count` more places; None if it may not have them.

    `requests` are all requests, in order of arrival. Requests that have started are not refused.
    """
    held = Counter[str]()
    for request in requests:
        held[request.client] += len(request.ids)
    needed = held.total() + count - places
    if needed <= 0:
        return []
    share = share_of(places)
    largest = next((name for name, number in held.items() if number > share), None)
    if largest is None or largest == client or held[client] + count > share:
        return None
    refused: list[PlacesOfRequest] = []
    for request in reversed(requests):
        if needed <= 0 or held[largest] <= share:
            break
        if request.client == largest and not request.started:
            refused.append(request)
            needed -= len(request.ids)
            held[largest] -= len(request.ids)
    return refused if needed <= max(places // EXTRA_PART, 1) else None


def share_of(places: int) -> int:
    """Half of the places, at least one."""
    return max(places // 2, 1)
