"""The waiting queue: requests that wait for their model or for memory, in fair turns of clients.

The next request of a model is one of the client that has the fewest requests running; among
those, the one that was received first. The requests of one client keep their order, so with
one client the queue is first in, first out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping

from worker.intake.prepared import PreparedRequest

NONE_RUNNING: Mapping[str, int] = {}


class WaitingQueue:
    """Waiting requests, in one queue per model and client."""

    def __init__(self) -> None:
        # By model, then by client; no queue is empty.
        self._queues: dict[str, dict[str, deque[PreparedRequest]]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queues in self._queues.values() for queue in queues.values())

    @property
    def models(self) -> list[str]:
        """The models that have waiting requests."""
        return list(self._queues)

    def append(self, prepared: PreparedRequest) -> None:
        """Add a request at the back of its client's queue."""
        self._queue_of(prepared).append(prepared)

    def push_front(self, prepared: PreparedRequest) -> None:
        """Add a preempted request at the front of its client's queue."""
        self._queue_of(prepared).appendleft(prepared)

    def peek(self, model: str, running: Mapping[str, int] = NONE_RUNNING) -> PreparedRequest | None:
        """The next request for this model; `running` are the running requests of each client."""
        heads = [queue[0] for queue in self._queues.get(model, {}).values()]
        return min(
            heads,
            key=lambda head: (running.get(head.submit.client, 0), head.received_at),
            default=None,
        )

    def waiting_of(self, model: str) -> Counter[str]:
        """How many requests of each client wait for this model."""
        queues = self._queues.get(model, {})
        return Counter({client: len(queue) for client, queue in queues.items()})

    def for_model(self, model: str) -> list[PreparedRequest]:
        """The requests for this model, by client."""
        return [each for queue in self._queues.get(model, {}).values() for each in queue]

    def remove(self, ids: Collection[int]) -> None:
        """Remove these requests; unknown ids are ignored."""
        for model, queues in list(self._queues.items()):
            self._queues[model] = {
                client: kept for client, queue in queues.items() if (kept := without(queue, ids))
            }
            if not self._queues[model]:
                del self._queues[model]

    def oldest_since(self, model: str) -> float | None:
        """When the oldest request for this model was received; None if none waits."""
        queues = self._queues.get(model, {}).values()
        return min((queue[0].received_at for queue in queues), default=None)

    def _queue_of(self, prepared: PreparedRequest) -> deque[PreparedRequest]:
        queues = self._queues.setdefault(prepared.submit.model, {})
        return queues.setdefault(prepared.submit.client, deque())


def without(queue: Iterable[PreparedRequest], ids: Collection[int]) -> deque[PreparedRequest]:
    """The requests of `queue` that are not in `ids`."""
    return deque(each for each in queue if each.submit.id not in ids)
