"""What is evicted, and what is not: by time, by use, by owner."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from service.errors import InvalidRequest, Overloaded, StoredObjectNotFound
from service.store.backends.rows import StoredItem
from service.store.index import Clock
from service.store.open_response import OpenResponse
from service.store.opening import Stores, open_memory_stores
from service.store.pages import PageQuery

pytestmark = pytest.mark.anyio

BOUND = 100_000
TTL_S = 100.0
ITEM = 8_000


@dataclass(slots=True)
class Time:
    """Both clocks; the wall clock may jump."""

    monotonic_s: float = 0.0
    unix_s: float = 1e9

    def clock(self) -> Clock:
        return Clock(lambda: self.unix_s, lambda: self.monotonic_s)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def stores(time: Time) -> Stores:
    return open_memory_stores(BOUND, TTL_S, clock=time.clock())


async def keep(
    stores: Stores, id: str, *, owner: str = "a", after: str | None = None, size: int = ITEM
) -> bool:
    response = await stores.responses.open(owner, id, previous_response_id=after)
    async with response:
        return await response.finish("completed", b"{}", [StoredItem(f"o_{id}", bytes(size))])


async def queue(stores: Stores, id: str, *, owner: str = "a", size: int = ITEM) -> OpenResponse:
    response = await stores.responses.open(owner, id)
    response.inputs = [StoredItem(f"i_{id}", bytes(size))]
    try:
        await response.queue(b"{}")
    except BaseException:
        response.close()
        raise
    return response


async def fill(stores: Stores, owner: str, count: int) -> list[str]:
    ids = [f"resp_{owner}{number}" for number in range(count)]
    for id in ids:
        assert await keep(stores, id, owner=owner)
    return ids


async def queue_until_refused(stores: Stores, owner: str) -> list[OpenResponse]:
    queued: list[OpenResponse] = []
    refusal = ""
    while not refusal:
        try:
            queued.append(await queue(stores, f"resp_{owner}q{len(queued)}", owner=owner))
        except Overloaded as error:
            refusal = error.code or ""
    assert refusal == "response_store_full"
    return queued


def present(stores: Stores, ids: list[str]) -> list[str]:
    return [id for id in ids if id in stores.index.entries]


async def test_the_least_recently_read_or_continued_is_evicted_first(stores: Stores) -> None:
    ids = await fill(stores, "a", 10)
    await stores.responses.get("a", ids[0])
    await stores.responses.list_inputs("a", ids[1], PageQuery())
    async with await stores.responses.open("a", "resp_x", previous_response_id=ids[2]):
        pass
    await keep(stores, "resp_large", size=5 * ITEM)
    left = present(stores, ids)
    assert left[:3] == ids[:3]
    assert left[3:] == ids[-(len(left) - 3) :]
    assert stores.index.evictions == len(ids) - len(left)


async def test_a_response_expires_after_its_end_and_a_conversation_after_its_last_change(
    stores: Stores, time: Time
) -> None:
    await keep(stores, "resp_1")
    await stores.conversations.create("a", "conv_1", b"{}", [], 0.0)
    running = await queue(stores, "resp_2")
    time.monotonic_s = 0.9 * TTL_S
    await stores.responses.get("a", "resp_1")
    await stores.conversations.add_items("a", "conv_1", [StoredItem("m", b"1")])
    time.monotonic_s = TTL_S
    with pytest.raises(StoredObjectNotFound):
        await stores.responses.get("a", "resp_1")
    assert (await stores.conversations.get("a", "conv_1")).data == b"{}"
    time.monotonic_s = 5 * TTL_S
    assert (await stores.responses.get("a", "resp_2")).status == "queued"
    assert await running.finish("completed", b"{}", [])
    time.monotonic_s = 5.9 * TTL_S
    assert (await stores.responses.get("a", "resp_2")).status == "completed"
    time.monotonic_s = 6 * TTL_S
    with pytest.raises(StoredObjectNotFound):
        await stores.responses.get("a", "resp_2")
    assert stores.index.usage.held_bytes == 0


async def test_a_jump_of_the_wall_clock_expires_nothing(stores: Stores, time: Time) -> None:
    await keep(stores, "resp_1")
    for jump_s in (86400.0, -172800.0):
        time.unix_s += jump_s
        assert (await stores.responses.get("a", "resp_1")).status == "completed"


async def test_what_is_larger_than_the_bound_is_made_but_not_kept_and_evicts_nothing(
    stores: Stores,
) -> None:
    ids = await fill(stores, "a", 5)
    assert not await keep(stores, "resp_large", size=BOUND)
    assert present(stores, ids) == ids
    with pytest.raises(InvalidRequest) as refused:
        await queue(stores, "resp_large", size=BOUND)
    assert refused.value.param == "background"
    with pytest.raises(InvalidRequest):
        await stores.conversations.create("a", "conv_1", b"{}", [StoredItem("m", bytes(BOUND))], 0)
    running = await queue(stores, "resp_small")
    assert not await running.finish("completed", b"{}", [StoredItem("o", bytes(BOUND))])
    with pytest.raises(StoredObjectNotFound):
        await stores.responses.get("a", "resp_small")
    assert present(stores, ids) == ids


async def test_an_owner_within_an_equal_share_loses_nothing_to_another(stores: Stores) -> None:
    theirs = await fill(stores, "b", 4)
    await fill(stores, "a", 50)
    assert present(stores, theirs) == theirs
    # Who comes later gets an equal share from whoever holds most.
    late = await fill(stores, "c", 3)
    assert present(stores, late) == late
    assert present(stores, theirs) == theirs
    assert stores.index.usage.held_bytes <= BOUND


async def test_one_owner_queues_no_more_than_leaves_room_for_others(stores: Stores) -> None:
    kept = await fill(stores, "b", 3)
    queued = {name: await queue_until_refused(stores, name) for name in ("a", "b", "c", "d")}
    assert all(queued.values())
    assert len(queued["a"]) > len(queued["b"]) >= len(queued["c"]) >= len(queued["d"])
    # None of them was evicted for another, and kept ones make room for those that wait.
    for name, responses in queued.items():
        for response in responses:
            assert (await stores.responses.get(name, response.id)).status == "queued"
    assert len(present(stores, kept)) < len(kept)
    assert await keep(stores, "resp_e", owner="e", size=1_000)
    for responses in queued.values():
        for response in responses:
            response.close()
    assert stores.index.usage.pinned_bytes == 0
    await queue(stores, "resp_again", owner="d")


async def test_events_take_no_more_room_than_their_owner_has(stores: Stores) -> None:
    running = await queue(stores, "resp_1")
    for number in range(200):
        running.log.append(b"%d" % number + bytes(1_000))
    assert stores.index.usage.pinned_bytes <= BOUND / 2
    with pytest.raises(InvalidRequest) as dropped:
        running.log.check_position(-1)
    assert dropped.value.code == "events_not_kept"
    running.log.check_position(198)
    assert await keep(stores, "resp_2", owner="b", size=BOUND // 3)
    assert await running.finish("completed", b"{}", [])
    assert stores.index.usage.held_bytes <= BOUND


async def test_a_context_too_large_to_be_pinned_may_be_evicted(stores: Stores) -> None:
    assert await keep(stores, "resp_1", size=BOUND * 2 // 3)
    response = await stores.responses.open("a", "resp_2", previous_response_id="resp_1")
    assert len(response.context) == 1
    assert await keep(stores, "resp_3", owner="b", size=BOUND // 2)
    assert not await response.finish("completed", b"{}", [StoredItem("o", b"1")])
    assert list(stores.index.entries) == ["resp_3"]


async def test_a_store_that_is_off_keeps_nothing_and_finds_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stores = open_memory_stores(0, TTL_S)
    assert not stores.responses.is_on
    assert not await keep(stores, "resp_1")
    assert caplog.text == ""
    with pytest.raises(StoredObjectNotFound):
        await stores.responses.get("a", "resp_1")
    with pytest.raises(InvalidRequest):
        await keep(stores, "resp_2", after="resp_1")
