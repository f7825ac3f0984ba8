"""Counts the events of a request in one pass."""

from __future__ import annotations

from typing import NamedTuple

from protocol.events import Event, Failed, Finished, Rejected, Started, TextDelta


class EventBatch(NamedTuple):
    """Events of one request that arrived together, with their counts.

    `prompt_tokens` is the sum over the started sequences, `completion_tokens` the number of
    generated tokens. `error` is the first rejection or failure of a sequence.
    """

    events: list[Event]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started: tuple[Started, ...] = ()
    finished: tuple[Finished, ...] = ()
    error: Rejected | Failed | None = None


def count_events(events: list[Event]) -> EventBatch:
    """Count the events."""
    completion_tokens = 0
    started: list[Started] = []
    finished: list[Finished] = []
    error: Rejected | Failed | None = None
    for event in events:
        match event:
            case TextDelta(tokens=tokens):
                completion_tokens += len(tokens)
            case Started():
                started.append(event)
            case Finished():
                finished.append(event)
            case Rejected() | Failed():
                error = error or event
    return EventBatch(
        events=events,
        prompt_tokens=sum(start.prompt_tokens for start in started),
        completion_tokens=completion_tokens,
        started=tuple(started),
        finished=tuple(finished),
        error=error,
    )
