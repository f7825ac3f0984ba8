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
    others: list[Event] = []
    for event in events:
        if isinstance(event, TextDelta):
            completion_tokens += len(event.tokens)
        else:
            others.append(event)
    if not others:
        # Of most tokens of a stream.
        return EventBatch(events, completion_tokens=completion_tokens)
    started = tuple(event for event in others if isinstance(event, Started))
    return EventBatch(
        events=events,
        prompt_tokens=sum(start.prompt_tokens for start in started),
        completion_tokens=completion_tokens,
        started=started,
        finished=tuple(event for event in others if isinstance(event, Finished)),
        error=next((event for event in others if isinstance(event, Rejected | Failed)), None),
    )
