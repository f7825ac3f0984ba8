"""The waiting queue: requests that wait for their model or for memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from worker.intake.prepared import PreparedRequest


class WaitingQueue:
    """Waiting requests, in one queue per model."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[PreparedRequest]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def models(self) -> list[str]:
        """The models that have waiting requests."""
        return [model for model, queue in self._queues.items() if queue]

    def append(self, prepared: PreparedRequest) -> None:
        """Add a request at the back of its model's queue."""
        self._queues.setdefault(prepared.submit.model, deque()).append(prepared)

    def push_front(self, prepared: PreparedRequest) -> None:
        """Add a preempted request at the front of its model's queue."""
        self._queues.setdefault(prepared.submit.model, deque()).appendleft(prepared)

    def peek(self, model: str) -> PreparedRequest | None:
        """The next request for this model."""
        queue = self._queues.get(model)
        return queue[0] if queue else None

    def pop(self, model: str) -> PreparedRequest:
        """Remove and return the next request for this model.

        Raises:
            LookupError: no request waits for this model.
        """
        return self._queues[model].popleft()

    def for_model(self, model: str) -> list[PreparedRequest]:
        """The requests for this model, the next one first."""
        return list(self._queues.get(model, ()))

    def remove(self, ids: Collection[int]) -> None:
        """Remove these requests; unknown ids are ignored."""
        for model, queue in self._queues.items():
            self._queues[model] = deque(p for p in queue if p.submit.id not in ids)

    def oldest_since(self, model: str) -> float | None:
        """When the next request for this model was received; None if none waits."""
        head = self.peek(model)
        return head.received_at if head is not None else None
