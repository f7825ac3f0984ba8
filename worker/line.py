"""The requests that wait for their model or for memory: by model, first come, first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from worker.desk import Prepared


class Line:
    """Waiting requests; one line for each model that anybody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Prepared]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def models(self) -> list[str]:
        """The models that are waited for."""
        return [id for id, waiting in self._waiting.items() if waiting]

    def join(self, prepared: Prepared) -> None:
        """Wait behind those who wait for the same model."""
        self._waiting.setdefault(prepared.submit.model, deque()).append(prepared)

    def return_first(self, prepared: Prepared) -> None:
        """Wait before all others: its turn had come already."""
        self._waiting.setdefault(prepared.submit.model, deque()).appendleft(prepared)

    def head(self, model: str) -> Prepared | None:
        """Who is next."""
        waiting = self._waiting.get(model)
        return waiting[0] if waiting else None

    def pop(self, model: str) -> Prepared:
        """Who is next, out of the line; there is somebody."""
        return self._waiting[model].popleft()

    def all_for(self, model: str) -> list[Prepared]:
        """Who waits for this model, in order."""
        return list(self._waiting.get(model, ()))

    def remove(self, ids: Collection[int]) -> None:
        """These wait no more; unknown ids are ignored."""
        for model, waiting in self._waiting.items():
            self._waiting[model] = deque(p for p in waiting if p.submit.id not in ids)

    def waits_since(self, id: str) -> float | None:
        """Since when the first in line waits for this model; None if nobody does."""
        head = self.head(id)
        return head.received_at if head is not None else None
