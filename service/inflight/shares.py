"""Shares of the places in flight: which requests are refused for other clients.

A client alone may use all places. While another client waits, no client gets a place above
half. If all places are taken, the newest requests that have not started, of a client above
half, are refused to make room for a client below it. Where all of these have started, such a
client gets a place beyond the limit: the worker preempts for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Up to this part of the places, at least one, may be taken beyond the limit.
EXTRA_PART = 8


@dataclass(slots=True)
class PlacesOfRequest:
    """The places of one request: the ids of its sequences that have not ended."""

    client: str
    first_id: int
    ids: list[int]
    started: bool = False


class PlacesInFlight:
    """The requests that have the `places`, counted as they come and go.

    A refusal looks at the clients alone, not at each request: who sends most is refused most.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        # By the id of each sequence, and in order of arrival by that of the first one.
        self._of_sequence: dict[int, PlacesOfRequest] = {}
        self._requests: dict[int, PlacesOfRequest] = {}
        # The places of each client, and how many of its requests have not started.
        self._held = Counter[str]()
        self._waiting = Counter[str]()

    def add(self, client: str, ids: Sequence[int]) -> None:
        """A request has come."""
        self._requests[ids[0]] = request = PlacesOfRequest(client, ids[0], list(ids))
        self._of_sequence.update(dict.fromkeys(ids, request))
        self._held[client] += len(ids)
        self._waiting[client] += 1

    def start(self, id: int) -> None:
        """A sequence has started, and so has its request."""
        request = self._of_sequence[id]
        if not request.started:
            request.started = True
            decrease(self._waiting, request.client)

    def remove(self, id: int) -> None:
        """A sequence has ended."""
        request = self._of_sequence.pop(id)
        request.ids.remove(id)
        decrease(self._held, request.client)
        if not request.ids:
            del self._requests[request.first_id]
            if not request.started:
                decrease(self._waiting, request.client)

    def rename(self, former: str, client: str) -> list[int]:
        """The requests of a client are those of another one, as it turns out; their sequences."""
        if former not in self._held:
            return []
        renamed = [request for request in self._requests.values() if request.client == former]
        for request in renamed:
            request.client = client
        for counts in (self._held, self._waiting):
            if number := counts.pop(former, 0):
                counts[client] += number
        return [id for request in renamed for id in request.ids]

    def is_above_share(self, client: str, count: int) -> bool:
        """Whether `count` more places take `client` above half while another client waits."""
        others_wait = any(name != client for name in self._waiting)
        return others_wait and self._held[client] + count > share_of(self._places)

    def refuse_for_shares(self, client: str, count: int) -> list[PlacesOfRequest] | None:
        """What to refuse so that `client` gets `count` more places; None if it may not have them.

        Requests that have started are not refused.
        """
        needed = len(self._of_sequence) + count - self._places
        if needed <= 0:
            return []
        share = share_of(self._places)
        largest = next((name for name, number in self._held.items() if number > share), None)
        if largest is None or largest == client or self._held[client] + count > share:
            return None
        above = self._held[largest] - share
        refused: list[PlacesOfRequest] = []
        for request in reversed(self._requests.values()):
            if needed <= 0 or above <= 0:
                break
            if request.client == largest and not request.started:
                refused.append(request)
                needed -= len(request.ids)
                above -= len(request.ids)
        return refused if needed <= max(self._places // EXTRA_PART, 1) else None


def decrease(counts: Counter[str], client: str) -> None:
    """Count one less; a client without any is not in `counts`."""
    counts[client] -= 1
    if not counts[client]:
        del counts[client]


def share_of(places: int) -> int:
    """Half of the places, at least one."""
    return max(places // 2, 1)
