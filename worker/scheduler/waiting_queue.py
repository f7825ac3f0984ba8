"""The waiting queue: requests that wait for their model or for memory, in fair turns of clients.

The next request of a model is one of the lowest `priority`; among those, of the client that has
the fewest requests running; among those, the one that was received first. While another client
waits, a client that holds half of the places comes last, whatever its priority. The requests of
one client and priority keep their order, so with one client and no priorities the queue is first
in, first out.

Nobody starves: each `FAIR_TURN`th place is given as if all priorities were equal. A request so
waits for at most `FAIR_TURN` times as many others as it would without priorities.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping

from worker.intake.prepared import PreparedRequest
from worker.intake.prepared_texts import PreparedEmbedding
from worker.scheduler.preemption.shares import share_of

FAIR_TURN = 4
NONE_RUNNING: Mapping[str, int] = {}

Waiting = PreparedRequest | PreparedEmbedding


class WaitingQueue:
    """Waiting requests, in one queue per model, client and priority."""

    def __init__(self) -> None:
        # By model, then by client and priority; no queue is empty.
        self._queues: dict[str, dict[tuple[str, int], deque[Waiting]]] = {}
        # How many places of each model were given.
        self._turns: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(queue) for queues in self._queues.values() for queue in queues.values())

    @property
    def models(self) -> list[str]:
        """The models that have waiting requests."""
        return list(self._queues)

    def append(self, prepared: Waiting) -> None:
        """Add a request at the back of the queue of its client and priority."""
        self._queue_of(prepared).append(prepared)

    def push_front(self, prepared: Waiting) -> None:
        """Add a preempted request at the front of the queue of its client and priority."""
        self._queue_of(prepared).appendleft(prepared)

    def peek(
        self,
        model: str,
        running: Mapping[str, int] = NONE_RUNNING,
        places: int = sys.maxsize,
    ) -> Waiting | None:
        """The next request for this model.

        `running` are the running requests of each client, of `places` that may run.
        """
        heads = [queue[0] for queue in self._queues.get(model, {}).values()]
        is_fair = (self._turns[model] + 1) % FAIR_TURN == 0
        share = share_of(places)

        def rank(head: Waiting) -> tuple[bool, int, int, float]:
            held = running.get(head.submit.client, 0)
            priority = 0 if is_fair else head.submit.priority
            return held >= share, priority, held, head.received_at

        return min(heads, key=rank, default=None)

    def rename_client(self, former: str, client: str) -> None:
        """The requests of `former` are those of `client`, and have their places among these."""
        for queues in self._queues.values():
            for name, priority in [key for key in queues if key[0] == former]:
                renamed = [each.of_client(client) for each in queues.pop((name, priority))]
                both = [*queues.get((client, priority), ()), *renamed]
                queues[client, priority] = deque(sorted(both, key=lambda each: each.received_at))

    def take(self, prepared: Waiting) -> None:
        """Remove a request that is given a place."""
        self.remove([prepared.submit.id])
        self._turns[prepared.submit.model] += 1

    def waiting_of(self, model: str) -> Counter[str]:
        """How many requests of each client wait for this model."""
        waiting: Counter[str] = Counter()
        for (client, _), queue in self._queues.get(model, {}).items():
            waiting[client] += len(queue)
        return waiting

    def for_model(self, model: str) -> list[Waiting]:
        """The requests for this model, by client."""
        return [each for queue in self._queues.get(model, {}).values() for each in queue]

    def remove(self, ids: Collection[int]) -> None:
        """Remove these requests; unknown ids are ignored."""
        for model, queues in list(self._queues.items()):
            self._queues[model] = {
                key: kept for key, queue in queues.items() if (kept := without(queue, ids))
            }
            if not self._queues[model]:
                del self._queues[model]

    def oldest_since(self, model: str) -> float | None:
        """When the oldest request for this model was received; None if none waits."""
        queues = self._queues.get(model, {}).values()
        return min((queue[0].received_at for queue in queues), default=None)

    def _queue_of(self, prepared: Waiting) -> deque[Waiting]:
        queues = self._queues.setdefault(prepared.submit.model, {})
        return queues.setdefault((prepared.submit.client, prepared.submit.priority), deque())


def without(queue: Iterable[Waiting], ids: Collection[int]) -> deque[Waiting]:
    """The requests of `queue` that are not in `ids`."""
    return deque(each for each in queue if each.submit.id not in ids)
