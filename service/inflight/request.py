"""One HTTP request in flight: its sequences' events, counted once as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from protocol.messages import Event, Failed, Rejected
from service.errors import ClientDisconnected, GenerationFailed
from service.inflight.output_collector import OutputCollector
from service.requestlog.event_batch import EventBatch, count_events
from service.supervision.refusals import refusal


class InflightRequest:
    """One HTTP request's sequences. Leaving the `async with` cancels what is unfinished."""

    def __init__(self, forget: Callable[[Sequence[int]], None], first_id: int, count: int) -> None:
        self._forget = forget
        self._first_id = first_id
        self._unstarted = set(range(first_id, first_id + count))
        self._unfinished = set(self._unstarted)
        self._early: list[EventBatch] = []
        self.fingerprint = ""
        self.collector = OutputCollector()
        # Called with every batch before the handler gets it.
        self.observers: list[Callable[[EventBatch], None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def index(self, event: Event) -> int:
        """Which of the request's sequences this is an event of, from 0."""
        return event.id - self._first_id

    async def start(self) -> None:
        """Wait until every sequence was admitted, so that a refusal can still be a status code.

        Raises:
            MlxdError: one was refused, or cannot be served now; nothing of the request is left.
        """
        try:
            while self._unstarted:
                self._early.append(self._count(await self.collector.take()))
        except BaseException:
            self.close()
            raise

    async def batches(self) -> AsyncIterator[EventBatch]:
        """The events as they come, all that are there at once; an empty batch after a wake-up.

        Raises:
            MlxdError: the generation failed, or the client left.
        """
        early, self._early = self._early, []
        for batch in early:
            yield batch
        while self._unfinished:
            yield self._count(await self.collector.take())

    def abandon(self) -> None:
        """The client left: generate nothing more for it."""
        self.close()
        self.collector.close(ClientDisconnected("The client left before its answer."))

    def close(self) -> None:
        """Cancel what is unfinished."""
        self._forget(sorted(self._unfinished))

    def _count(self, events: list[Event]) -> EventBatch:
        """The events counted; a refusal or failure of one sequence fails the request.

        Raises:
            MlxdError: one sequence was refused or failed.
        """
        batch = count_events(events)
        for start in batch.started:
            self.fingerprint = start.fingerprint
            self._unstarted.discard(start.id)
        for end in batch.finished:
            self._unfinished.discard(end.id)
        for observe in self.observers:
            observe(batch)
        match batch.error:
            case Rejected(_, code, message, param):
                raise refusal(code, message, param)
            case Failed(_, message):
                raise GenerationFailed(message)
        return batch
