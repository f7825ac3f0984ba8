"""One HTTP request in flight: the events of its sequences, counted once on arrival."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from protocol.events import Event, Failed, Rejected, Tokenized
from service.errors import ClientDisconnected, GenerationFailed, MlxdError
from service.inflight.output_collector import OutputCollector
from service.requestlog.event_batch import EventBatch, count_events
from service.supervision.refusals import error_for_code


class InflightRequest:
    """The sequences of one HTTP request. Leaving the `async with` cancels the unfinished ones."""

    def __init__(self, cancel: Callable[[Sequence[int]], None], first_id: int, count: int) -> None:
        self._cancel = cancel
        self._first_id = first_id
        self._unstarted = set(range(first_id, first_id + count))
        self._unfinished = set(self._unstarted)
        self._buffered: list[EventBatch] = []
        self.fingerprint = ""
        # The parameters that the model ignores.
        self.ignored: list[str] = []
        # How many of the oldest messages the worker has left out of the prompt.
        self.dropped_messages = 0
        self.collector = OutputCollector()
        # Each is called with every batch, before the handler gets the batch.
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
        """The index of the event's sequence within the request, from 0."""
        return event.id - self._first_id

    async def start(self) -> None:
        """Wait until every sequence has started, so that a rejection can still set the HTTP status.

        Raises:
            MlxdError: a sequence was rejected or failed; the whole request is cancelled.
        """
        try:
            while self._unstarted:
                self._buffered.append(self.count(await self.collector.take()))
        except BaseException:
            self.close()
            raise

    async def batches(self) -> AsyncIterator[EventBatch]:
        """All available events as one batch, until the last sequence ends; empty after a wake-up.

        Raises:
            MlxdError: the generation failed, or the client disconnected.
        """
        buffered, self._buffered = self._buffered, []
        for batch in buffered:
            yield batch
        while self._unfinished:
            yield self.count(await self.collector.take())

    async def tokenized(self) -> Tokenized:
        """Wait for the result of a request for the tokenizer alone.

        Raises:
            MlxdError: the request was rejected, or the client disconnected.
        """
        async with self:
            while True:
                for event in self.count(await self.collector.take()).events:
                    if isinstance(event, Tokenized):
                        return event

    def abandon(self) -> None:
        """Cancel the request because its client has disconnected."""
        self.close()
        self.collector.close(ClientDisconnected("The client disconnected before its answer."))

    def close(self) -> None:
        """Cancel the unfinished sequences."""
        self._cancel(sorted(self._unfinished))
        # The shortcut's owner has this request: a cycle.
        self.collector.shortcut = None

    def count(self, events: list[Event]) -> EventBatch:
        """Events that the collector gave, with their counts, also passed to the observers.

        Raises:
            MlxdError: a sequence was rejected or failed.
        """
        batch = count_events(events)
        for started in batch.started:
            self.fingerprint = started.fingerprint
            self.ignored = started.ignored
            self.dropped_messages = started.dropped_messages
            self._unstarted.discard(started.id)
        for finished in batch.finished:
            self._unfinished.discard(finished.id)
        for observe in self.observers:
            observe(batch)
        if batch.error is not None:
            raise error_of(batch.error)
        return batch


def error_of(event: Rejected | Failed) -> MlxdError:
    """The error of a sequence that was rejected or has failed."""
    match event:
        case Rejected(code=code, message=message, param=param, too_long=too_long):
            return error_for_code(code, message, param, too_long)
        case Failed(message=message):
            return GenerationFailed(message)
