"""The events of a background response: read from any number on, then live, by several readers."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.store.replay_log import EVENT_BYTES, ReplayLog

pytestmark = pytest.mark.anyio

LOG_BYTES = 10 * (EVENT_BYTES + 10)


async def read(log: ReplayLog, starting_after: int, into: list[bytes]) -> None:
    async for event in log.read(starting_after):
        # One by one: the test looks at them meanwhile.
        into += [event]


async def test_readers_get_what_is_kept_and_then_what_comes() -> None:
    log = ReplayLog()
    log.append(b"0")
    log.append(b"1")
    found: list[list[bytes]] = [[], [], []]
    async with anyio.create_task_group() as group:
        for starting_after, into in zip((-1, 0, 1), found, strict=True):
            group.start_soon(read, log, starting_after, into)
        await anyio.wait_all_tasks_blocked()
        assert found == [[b"0", b"1"], [b"1"], []]
        log.append(b"2")
        await anyio.wait_all_tasks_blocked()
        log.append(b"3")
        log.close()
    assert found == [[b"0", b"1", b"2", b"3"], [b"1", b"2", b"3"], [b"2", b"3"]]
    again: list[bytes] = []
    await read(log, 2, again)
    assert again == [b"3"]


async def test_a_number_that_is_not_reached_yet_is_waited_for() -> None:
    log, found = ReplayLog(), list[bytes]()
    async with anyio.create_task_group() as group:
        group.start_soon(read, log, 1, found)
        for number in range(4):
            log.append(b"%d" % number)
            await anyio.wait_all_tasks_blocked()
        log.close()
    assert found == [b"2", b"3"]


async def test_a_reader_whose_next_event_is_dropped_hears_of_it() -> None:
    log = ReplayLog(LOG_BYTES)
    log.append(bytes(10))
    events = log.read()
    assert await anext(events) == bytes(10)
    for _ in range(20):
        log.append(bytes(10))
    with pytest.raises(InvalidRequest) as dropped:
        await anext(events)
    assert (dropped.value.param, dropped.value.code) == ("starting_after", "events_not_kept")


async def test_events_that_come_together_are_read_though_there_is_no_room() -> None:
    log, found = ReplayLog(has_room=lambda _: False), list[bytes]()
    async with anyio.create_task_group() as group:
        group.start_soon(read, log, -1, found)
        await anyio.wait_all_tasks_blocked()
        for number in range(3):
            log.append(b"a%d" % number, b"b%d" % number)
            await anyio.wait_all_tasks_blocked()
        log.close()
    assert found == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]


@given(st.lists(st.integers(0, LOG_BYTES), max_size=40))
def test_the_log_is_bounded_and_its_sizes_add_up(sizes: list[int]) -> None:
    counted: list[int] = []
    log = ReplayLog(LOG_BYTES, count=counted.append)
    for number, size in enumerate(sizes):
        log.append(bytes(size))
        assert log.next_number == number + 1
        assert log.size == sum(counted)
        assert log.size <= max(LOG_BYTES, EVENT_BYTES + size)
