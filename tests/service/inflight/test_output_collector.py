"""A mailbox keeps every event and its order, and a slow reader costs a bounded number of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Event, Finished, Started, TextDelta
from service.inflight.output_collector import MERGE_ABOVE_EVENTS, OutputCollector, merge_deltas

pytestmark = pytest.mark.anyio

deltas = st.builds(
    TextDelta, st.integers(1, 3), st.text("ab"), st.lists(st.integers(0, 9), max_size=2)
)


def text_of(events: list[Event], id: int) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta) and e.id == id)


def tokens_of(events: list[Event], id: int) -> list[int]:
    return [t for e in events if isinstance(e, TextDelta) and e.id == id for t in e.tokens]


async def test_events_that_came_are_taken_at_once_and_in_order() -> None:
    mailbox = OutputCollector()
    sent: list[Event] = [Started(1, 2), TextDelta(1, "a", [1]), TextDelta(1, "b", [2])]
    for event in sent:
        mailbox.put(event)
    assert await mailbox.take() == sent


async def test_a_reader_waits_for_the_next_event() -> None:
    mailbox = OutputCollector()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(mailbox.take())
        await asyncio.sleep(0)
        assert not reader.done()
        mailbox.put(Started(1, 2))
    assert reader.result() == [Started(1, 2)]


async def test_a_nudge_wakes_the_reader_with_nothing_once() -> None:
    mailbox = OutputCollector()
    mailbox.wake()
    assert await mailbox.take() == []
    mailbox.put(Started(1, 2))
    assert await mailbox.take() == [Started(1, 2)]


async def test_a_closed_mailbox_gives_what_it_holds_and_then_its_error() -> None:
    mailbox = OutputCollector()
    mailbox.put(Started(1, 2))
    mailbox.close(ValueError("first"))
    mailbox.close(ValueError("second"))
    assert await mailbox.take() == [Started(1, 2)]
    with pytest.raises(ValueError, match="first"):
        await mailbox.take()


async def test_a_reader_that_gave_up_waiting_can_wait_again() -> None:
    mailbox = OutputCollector()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(mailbox.take(), 0)
    mailbox.put(Started(1, 2))
    assert await mailbox.take() == [Started(1, 2)]


async def test_a_slow_readers_events_are_bounded_and_their_text_is_whole() -> None:
    mailbox = OutputCollector()
    for n in range(10_000):
        mailbox.put(TextDelta(1, f"{n} ", [n]))
    events = await mailbox.take()
    assert len(events) <= MERGE_ABOVE_EVENTS
    assert text_of(events, 1) == "".join(f"{n} " for n in range(10_000))
    assert tokens_of(events, 1) == list(range(10_000))


@given(st.lists(deltas, max_size=20))
def test_merging_keeps_each_sequences_text_and_tokens(events: list[TextDelta]) -> None:
    finished = Finished(1, "stop", 1, 1, 0.0, 0.0, 0.0)
    merged = merge_deltas([Started(1, 1), *events, finished])
    for id in (1, 2, 3):
        assert text_of(merged, id) == text_of(list(events), id)
        assert tokens_of(merged, id) == tokens_of(list(events), id)
    assert merged[0] == Started(1, 1)
    assert merged[-1] == finished
    assert len(merged) <= 2 + 3
