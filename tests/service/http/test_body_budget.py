"""The slowest sender is dropped for the others, and every wait ends."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from protocol.units import MIB
from service.config.settings import Settings
from service.errors import BodyMemoryFull, MlxdError, render_error
from service.http.body_budget import (
    MAX_WAIT_S,
    MAX_WAITING,
    PATIENCE_S,
    SMALL_BODY_BYTES,
    STALL_S,
    BodyBudget,
    BodyLease,
)
from service.http.request_body import RequestReader
from tests.service.http.driven_request import drive, pieces, queue
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

LIMIT = 10 * SMALL_BODY_BYTES
HALF = LIMIT // 2
LARGE = 4 * SMALL_BODY_BYTES


class Senders:
    """A budget with a clock of its own, and the names of the senders that it dropped."""

    def __init__(self) -> None:
        self.time = 0.0
        self.budget = BodyBudget(LIMIT, now=lambda: self.time)
        self.dropped: list[str] = []
        self.errors: list[MlxdError] = []

    def open(self, name: str, client: str = "one") -> BodyLease:
        def on_drop(error: MlxdError) -> None:
            self.dropped.append(name)
            self.errors.append(error)

        lease = self.budget.open(on_drop)
        lease.client = client
        return lease

    async def send(
        self, name: str, nbytes: int, received: int = 0, client: str = "one"
    ) -> BodyLease:
        """A lease of `nbytes`, which has room, after `received` have arrived."""
        lease = self.open(name, client)
        assert await lease.resize(nbytes)
        lease.record(received)
        return lease

    async def wait(self, lease: BodyLease, nbytes: int) -> asyncio.Task[bool]:
        """A resize that waits."""
        task = asyncio.create_task(lease.resize(nbytes))
        await asyncio.sleep(0)
        return task

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.budget.check()


async def test_small_bodies_always_have_room() -> None:
    senders = Senders()
    await senders.send("large", LIMIT)
    for _ in range(100):
        assert await senders.open("small").resize(SMALL_BODY_BYTES)
    assert senders.budget.used_bytes == LIMIT
    assert senders.dropped == []


async def test_a_body_waits_until_another_ends() -> None:
    senders = Senders()
    first = await senders.send("first", LIMIT)
    first.complete = True
    waiting = await senders.wait(senders.open("second"), HALF)
    assert not waiting.done()
    first.close()
    assert await waiting
    assert (senders.budget.used_bytes, senders.dropped) == (HALF, [])


async def test_a_sender_that_stalls_is_dropped_at_once_for_one_that_waits() -> None:
    senders = Senders()
    await senders.send("stalled", HALF, received=HALF)
    senders.time = STALL_S
    await senders.send("moving", HALF, received=1)
    assert await senders.open("third").resize(HALF)
    assert senders.dropped == ["stalled"]
    [error] = senders.errors
    rendered = render_error(error)
    assert (rendered.status, error.code) == (503, "body_memory_full")
    assert b"retry-after" in dict(rendered.headers)


async def test_the_slowest_sender_is_dropped_when_others_have_waited() -> None:
    senders = Senders()
    slow, fast = await senders.send("slow", HALF), await senders.send("fast", HALF)
    senders.time = STALL_S / 4
    waiting_lease = senders.open("waiting")
    waiting_lease.record(HALF)
    waiting = await senders.wait(waiting_lease, HALF)
    for _ in range(int(PATIENCE_S / STALL_S) * 2):
        assert senders.dropped == []
        slow.record(1)
        fast.record(1000)
        senders.advance(STALL_S / 2)
    assert senders.dropped == ["slow"]
    assert await waiting


async def test_one_that_waits_is_the_slowest_if_it_was() -> None:
    senders = Senders()
    lease = senders.open("trickle")
    lease.record(10)
    senders.time = 10.0
    fast = await senders.send("fast", LIMIT)
    waiting = await senders.wait(lease, HALF)
    for _ in range(int(PATIENCE_S / STALL_S) * 2):
        fast.record(10_000)
        senders.advance(STALL_S / 2)
    assert senders.dropped == ["trickle"]
    assert not await waiting


async def test_bodies_that_all_wait_for_each_other_go_on_without_the_slowest() -> None:
    senders = Senders()
    first, second = await senders.send("first", HALF), await senders.send("second", HALF)
    senders.time = STALL_S / 2
    first.record(1000)
    second.record(10)
    waiting = [await senders.wait(first, HALF + 1), await senders.wait(second, HALF + 1)]
    assert await asyncio.gather(*waiting) == [True, False]
    assert senders.dropped == ["second"]


async def test_a_body_that_has_arrived_is_never_dropped_and_a_wait_for_it_ends() -> None:
    senders = Senders()
    (await senders.send("answered", LIMIT)).complete = True
    waiting = await senders.wait(senders.open("waiting"), HALF)
    senders.advance(MAX_WAIT_S - 1)
    assert senders.dropped == []
    senders.advance(1)
    assert senders.dropped == ["waiting"]
    assert not await waiting
    assert isinstance(senders.errors[0], BodyMemoryFull)


async def test_the_time_of_a_wait_does_not_make_a_sender_slow() -> None:
    senders = Senders()
    blocker = await senders.send("blocker", LIMIT)
    blocker.complete = True
    lease = senders.open("waited")
    senders.time = 1.0
    lease.record(1000)
    waiting = await senders.wait(lease, HALF)
    senders.advance(MAX_WAIT_S / 2)
    blocker.close()
    assert await waiting
    assert lease.rate(senders.time) == 1000
    assert not lease.is_stalled(senders.time)


async def test_the_oldest_request_gets_room_first_however_small_the_others_are() -> None:
    senders = Senders()
    blocker = await senders.send("blocker", LIMIT)
    blocker.complete = True
    older, younger = senders.open("older"), senders.open("younger")
    waiting_younger = await senders.wait(younger, 2 * SMALL_BODY_BYTES)
    waiting_older = await senders.wait(older, LIMIT)
    blocker.close()
    assert await waiting_older
    assert not waiting_younger.done()
    older.close()
    assert await waiting_younger


async def test_a_body_larger_than_the_budget_has_room_alone() -> None:
    senders = Senders()
    assert await senders.open("huge").resize(5 * LIMIT)


async def test_only_so_many_wait() -> None:
    senders = Senders()
    (await senders.send("answered", LIMIT)).complete = True
    waiting = [await senders.wait(senders.open("waiting"), HALF) for _ in range(MAX_WAITING)]
    assert not await senders.open("surplus").resize(HALF)
    assert senders.dropped == ["surplus"]
    senders.advance(MAX_WAIT_S)
    assert not any(await asyncio.gather(*waiting))


async def test_a_wait_ends_with_its_request_or_its_task() -> None:
    senders = Senders()
    blocker = await senders.send("blocker", LIMIT)
    blocker.complete = True
    closed, cancelled = senders.open("closed"), senders.open("cancelled")
    tasks = [await senders.wait(lease, HALF) for lease in (closed, cancelled)]
    closed.close()
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] is False
    assert isinstance(results[1], asyncio.CancelledError)
    blocker.close()
    assert senders.budget.used_bytes == 0
    assert await senders.open("next").resize(LIMIT)


async def turn_the_loop() -> None:
    """Let all that waits for nothing outside the event loop, and the timers, come to their end."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_the_wait_for_memory_does_not_count_towards_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(body_timeout_s=HANG_S)
    budget = BodyBudget(LARGE)
    other = budget.open(lambda error: None)
    assert await other.resize(LARGE)
    other.complete = True
    passed_s, loop = 0.0, asyncio.get_running_loop()
    read_clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: read_clock() + passed_s)
    bodies = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(await scope["state"]["request_reader"].body())

    sending = asyncio.create_task(drive(app, queue(*pieces(LARGE)), settings, budget))
    await turn_the_loop()
    passed_s = 2 * settings.body_timeout_s
    await turn_the_loop()
    assert bodies == []
    other.close()
    await sending
    assert bodies == [b"x" * LARGE]


async def test_a_body_that_nobody_asks_for_uses_no_memory() -> None:
    budget = BodyBudget(MIB)
    incoming = queue(*pieces(LARGE))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("not read")(scope, receive, send)
        assert budget.used_bytes == 0
        assert incoming.empty()

    await drive(app, incoming, Settings(), budget)


async def test_memory_is_reserved_until_the_request_ends() -> None:
    budget = BodyBudget(MIB)
    used: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reader: RequestReader = scope["state"]["request_reader"]
        await reader.body()
        used.append(budget.used_bytes)
        await reader.reserve(3 * LARGE)
        reader.discard_body()
        used.append(budget.used_bytes)
        await PlainTextResponse("done")(scope, receive, send)

    await drive(app, queue(*pieces(LARGE)), Settings(), budget)
    assert used == [2 * LARGE, 3 * LARGE]
    assert budget.used_bytes == 0


async def test_a_client_above_half_makes_room_for_another_at_once() -> None:
    senders = Senders()
    for number in range(3):
        await senders.send(
            f"many {number}", 3 * SMALL_BODY_BYTES, received=100 - number, client="many"
        )
    waiting = await senders.wait(senders.open("few", client="few"), HALF)
    assert await waiting
    assert senders.dropped == ["many 2", "many 1"]


async def test_a_client_within_its_share_has_room_before_one_above_it() -> None:
    senders = Senders()
    held = [await senders.send(f"many {n}", HALF, client="many") for n in range(2)]
    for lease in held:
        lease.complete = True
    more = await senders.wait(senders.open("more", client="many"), HALF)
    few = await senders.wait(senders.open("few", client="few"), HALF)
    held[0].close()
    assert await few
    assert not more.done()
    held[1].close()
    assert await more


async def test_a_client_alone_has_the_whole_budget() -> None:
    senders = Senders()
    first = await senders.send("first", HALF, client="many")
    await senders.send("second", HALF, client="many")
    waiting = await senders.wait(senders.open("more", client="many"), HALF)
    senders.advance(STALL_S / 2)
    assert (senders.dropped, waiting.done()) == ([], False)
    first.close()
    assert await waiting
