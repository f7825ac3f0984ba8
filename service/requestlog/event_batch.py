"""The one pass over a request's events: what those that came together add up to."""

from __future__ import annotations

from typing import NamedTuple

from protocol.messages import Event, Failed, Finished, Rejected, Started, TextDelta


class EventBatch(NamedTuple):
    """Events of one request that came together, counted.

    `prompt_tokens` are those of the sequences that started, `completion_tokens` those that
    were generated. `error` is the first refusal or failure of a sequence.
    """

    events: list[Event]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started: tuple[Started, ...] = ()
    finished: tuple[Finished, ...] = ()
    error: Rejected | Failed | None = None


def count_events(events: list[Event]) -> EventBatch:
    """The events with their counts."""
    completion_tokens = 0
    started: list[Started] = []
    finished: list[Finished] = []
    error: Rejected | Failed | None = None
    for event in events:
        match event:
            case TextDelta(_, _, tokens):
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
