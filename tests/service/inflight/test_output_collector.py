"""The collector keeps all content in order, and holds a bounded number of events."""

from __future__ import annotations

import asyncio

import pytest

from protocol.events import Event, Started, TextDelta
from service.inflight.output_collector import MERGE_ABOVE_EVENTS, OutputCollector
from tests.service.records import make_finished

pytestmark = pytest.mark.anyio


def text_of(events: list[Event], id: int) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta) and e.id == id)


def tokens_of(events: list[Event], id: int) -> list[int]:
    return [t for e in events if isinstance(e, TextDelta) and e.id == id for t in e.tokens]


async def test_available_events_are_taken_at_once_and_in_order() -> None:
    collector = OutputCollector()
    sent: list[Event] = [Started(1, 2), TextDelta(1, "a", [1]), TextDelta(1, "b", [2])]
    for event in sent:
        collector.put(event)
    assert await collector.take() == sent


async def test_a_reader_waits_for_the_next_event() -> None:
    collector = OutputCollector()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(collector.take())
        await asyncio.sleep(0)
        assert not reader.done()
        collector.put(Started(1, 2))
    assert reader.result() == [Started(1, 2)]


async def test_wake_makes_the_reader_return_no_events_once() -> None:
    collector = OutputCollector()
    collector.wake()
    assert await collector.take() == []
    collector.put(Started(1, 2))
    assert await collector.take() == [Started(1, 2)]


async def test_a_closed_collector_returns_its_events_and_then_raises_the_first_error() -> None:
    collector = OutputCollector()
    collector.put(Started(1, 2))
    collector.close(ValueError("first"))
    collector.close(ValueError("second"))
    assert await collector.take() == [Started(1, 2)]
    with pytest.raises(ValueError, match="first"):
        await collector.take()


async def test_a_reader_whose_wait_was_cancelled_can_wait_again() -> None:
    collector = OutputCollector()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(collector.take(), 0)
    collector.put(Started(1, 2))
    assert await collector.take() == [Started(1, 2)]


class Shortcut:
    """Takes events of text alone, while it `is_open`."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.is_open = True
        self.error: Exception | None = None

    def __call__(self, events: list[Event]) -> bool:
        if self.error is not None:
            raise self.error
        if not self.is_open or not all(isinstance(event, TextDelta) for event in events):
            return False
        self.taken += events
        return True


async def test_a_shortcut_takes_what_arrives_while_the_reader_waits() -> None:
    collector, shortcut = OutputCollector(), Shortcut()
    collector.shortcut = shortcut
    first, *others = [TextDelta(1, f"{n} ", [n]) for n in range(5)]
    end = make_finished(1)
    collector.put(first)
    assert await collector.take() == [first]
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(collector.take())
        await asyncio.sleep(0)
        collector.put(others[0])
        # Those of one message come together.
        assert [collector.add(others[1]), collector.add(others[2])] == [True, False]
        assert shortcut.taken == others[:1]
        collector.deliver()
        assert shortcut.taken == others[:3]
        assert not reader.done()
        # What it does not take goes to the reader, and so does all that follows.
        collector.put(end)
        collector.put(others[3])
    assert reader.result() == [end, others[3]]
    assert shortcut.taken == others[:3]


async def test_what_a_shortcut_refuses_goes_to_the_reader_in_order() -> None:
    collector, shortcut = OutputCollector(), Shortcut()
    collector.shortcut = shortcut
    sent: list[Event] = [TextDelta(1, f"{n} ", [n]) for n in range(3)]
    shortcut.is_open = False
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(collector.take())
        await asyncio.sleep(0)
        collector.put(sent[0])
        shortcut.is_open = True
        collector.put(sent[1])
    assert reader.result() == sent[:2]
    collector.put(sent[2])
    assert shortcut.taken == []
    assert await collector.take() == sent[2:]


async def test_an_error_of_a_shortcut_is_raised_in_the_reader_alone() -> None:
    collector, shortcut = OutputCollector(), Shortcut()
    collector.shortcut = shortcut
    shortcut.error = ValueError("it cannot be encoded")
    reader = asyncio.create_task(collector.take())
    await asyncio.sleep(0)
    collector.put(TextDelta(1, "a", [1]))
    with pytest.raises(ValueError, match="it cannot be encoded"):
        await reader


async def test_a_slow_readers_events_are_bounded_and_complete() -> None:
    collector = OutputCollector()
    for n in range(10_000):
        collector.put(TextDelta(1, f"{n} ", [n]))
    events = await collector.take()
    assert len(events) <= MERGE_ABOVE_EVENTS
    assert text_of(events, 1) == "".join(f"{n} " for n in range(10_000))
    assert tokens_of(events, 1) == list(range(10_000))
