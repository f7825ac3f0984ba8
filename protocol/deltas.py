"""Fewer, longer deltas with the same content."""

from __future__ import annotations

from protocol.events import ArgumentsDelta, Event, TextDelta


def merge_deltas(events: list[Event]) -> list[Event]:
    """The same content in fewer events: consecutive deltas of a sequence and kind are merged.

    A delta without text only carries tokens. It is merged into the last delta of its
    sequence, of any kind.
    """
    merged: list[Event] = []
    # The positions in `merged` of each sequence's last event and last text delta.
    last_event: dict[int, int] = {}
    last_delta: dict[int, int] = {}
    for event in events:
        position = last_event.get(event.id)
        earlier = None if position is None else merged[position]
        match event, earlier:
            case TextDelta(text="", id=id), _ if id in last_delta:
                position = last_delta[id]
                earlier = merged[position]
                assert isinstance(earlier, TextDelta)
                merged[position] = concatenate(earlier, event)
            case TextDelta(), TextDelta() if position is not None and can_merge(earlier, event):
                merged[position] = concatenate(earlier, event)
            case ArgumentsDelta(id=id, index=index, text=text), ArgumentsDelta() if (
                position is not None and index == earlier.index
            ):
                merged[position] = ArgumentsDelta(id, index, earlier.text + text)
            case _:
                last_event[event.id] = len(merged)
                if isinstance(event, TextDelta):
                    last_delta[event.id] = len(merged)
                merged.append(event)
    return merged


def can_merge(earlier: TextDelta, later: TextDelta) -> bool:
    """Whether both deltas are of one kind; an earlier one without text is of any kind."""
    return earlier.kind == later.kind or not earlier.text


def concatenate(earlier: TextDelta, later: TextDelta) -> TextDelta:
    """Both deltas as one."""
    return TextDelta(
        id=earlier.id,
        text=earlier.text + later.text,
        tokens=earlier.tokens + later.tokens,
        logprobs=earlier.logprobs + later.logprobs,
        settled=later.settled,
        kind=later.kind if later.text else earlier.kind,
        accepted=earlier.accepted + later.accepted,
        rejected=earlier.rejected + later.rejected,
    )
