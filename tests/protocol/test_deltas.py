"""Merged deltas have all that the separate ones had."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from protocol.deltas import merge_deltas
from protocol.events import (
    ArgumentsDelta,
    Event,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
    count_drafts,
)
from tests.service.records import make_finished

IDS = (1, 2, 3)

deltas = st.builds(
    TextDelta,
    id=st.sampled_from(IDS),
    text=st.text("ab"),
    tokens=st.lists(st.integers(0, 9), max_size=2),
    logprobs=st.lists(st.builds(TokenLogprob, st.just(b"a"), st.just(-1.0)), max_size=2),
    kind=st.sampled_from(["content", "reasoning"]),
    accepted=st.integers(0, 2),
    rejected=st.integers(0, 2),
)
arguments = st.builds(ArgumentsDelta, st.sampled_from(IDS), st.integers(0, 1), st.text("{}"))
calls = st.builds(ToolCallStarted, st.sampled_from(IDS), st.integers(0, 1), st.just("f"))


def texts_of(events: Sequence[Event], id: int) -> list[tuple[object, str]]:
    """What an answer's events add to each of its parts, in order, without empty ones."""
    parts: list[tuple[object, str]] = []
    for event in events:
        match event:
            case TextDelta(text=text, kind=part) if event.id == id:
                addition: tuple[object, str] = part, text
            case ArgumentsDelta(text=text, index=part) if event.id == id:
                addition = part, text
            case ToolCallStarted(index=part, name=name) if event.id == id:
                addition = ("call", part), name
            case _:
                continue
        if not addition[1]:
            continue
        if parts and parts[-1][0] == addition[0] and not isinstance(addition[0], tuple):
            parts[-1] = addition[0], parts[-1][1] + addition[1]
        else:
            parts.append(addition)
    return parts


def tokens_of(events: Sequence[Event], id: int) -> tuple[list[int], int]:
    """The tokens of an answer, and how many log-probabilities it has."""
    own = [event for event in events if isinstance(event, TextDelta) and event.id == id]
    tokens = [token for event in own for token in event.tokens]
    return tokens, sum(len(event.logprobs) for event in own)


@given(st.lists(deltas | arguments | calls, max_size=20))
def test_merging_keeps_each_answers_parts_tokens_and_drafts(events: list[Event]) -> None:
    finished = make_finished(1)
    merged = merge_deltas([Started(1, 1), *events, finished])
    for id in IDS:
        assert texts_of(merged, id) == texts_of(events, id)
        assert tokens_of(merged, id) == tokens_of(events, id)
    assert count_drafts(merged) == count_drafts(events)
    assert (merged[0], merged[-1]) == (Started(1, 1), finished)
    assert len(merged) <= 2 + len(events)


@given(st.lists(deltas, max_size=20))
def test_text_of_one_kind_is_one_delta_an_answer(events: list[TextDelta]) -> None:
    content: list[Event] = [event for event in events if event.kind == "content"]
    assert len(merge_deltas(content)) == len({event.id for event in content})
