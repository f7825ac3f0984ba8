"""The waiting queue: requests that wait for their model or for memory, in order, by model."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from worker.intake.prepared import PreparedRequest


class WaitingQueue:
    """Waiting requests; one queue a model."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[PreparedRequest]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def models(self) -> list[str]:
        """The models that requests wait for."""
        return [model for model, queue in self._queues.items() if queue]

    def append(self, prepared: PreparedRequest) -> None:
        """Add a request behind those for the same model."""
        self._queues.setdefault(prepared.submit.model, deque()).append(prepared)

    def push_front(self, prepared: PreparedRequest) -> None:
        """Add a preempted request in front of those for the same model."""
        self._queues.setdefault(prepared.submit.model, deque()).appendleft(prepared)

    def peek(self, model: str) -> PreparedRequest | None:
        """The next request for this model."""
        queue = self._queues.get(model)
        return queue[0] if queue else None

    def pop(self, model: str) -> PreparedRequest:
        """Remove and return the next request for this model; there is one."""
        return self._queues[model].popleft()

    def for_model(self, model: str) -> list[PreparedRequest]:
        """The requests for this model, in order."""
        return list(self._queues.get(model, ()))

    def remove(self, ids: Collection[int]) -> None:
        """Remove these requests; unknown ids are ignored."""
        for model, queue in self._queues.items():
            self._queues[model] = deque(p for p in queue if p.submit.id not in ids)

    def oldest_since(self, model: str) -> float | None:
        """Since when the next request for this model waits; None if none does."""
        head = self.peek(model)
        return head.received_at if head is not None else None
