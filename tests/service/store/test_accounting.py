"""Any order of calls: bytes are those of what is reachable, within the bound; chains are whole."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from service.errors import InvalidRequest, Overloaded, StoredObjectNotFound
from service.store.backends.memory import MemoryBackend
from service.store.backends.rows import StoredItem, data_key, item_keys
from service.store.index import Clock
from service.store.items import Turn, chain_of
from service.store.open_response import OpenResponse
from service.store.opening import open_memory_stores
from service.store.pages import MAX_LIMIT, PageQuery
from service.store.replay_log import EVENT_BYTES

BOUND = 40_000
TTL_S = 50.0
OWNERS = ("a", "b", "c")
ALL = PageQuery(MAX_LIMIT, "asc")

owners = st.sampled_from(OWNERS)
sizes = st.lists(st.integers(0, 6000), min_size=0, max_size=3)


@dataclass(slots=True)
class Made:
    """A response that was begun, and the texts that it must have for ever."""

    owner: str
    id: str
    open: OpenResponse
    context: list[bytes]
    inputs: list[bytes]
    outputs: list[bytes] = field(default_factory=list)
    is_queued: bool = False
    last_event: int = 0


class StoreMachine(RuleBasedStateMachine):
    """The store in memory, beside what was put into it."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stores = open_memory_stores(
            BOUND, TTL_S, clock=Clock(unix_s=lambda: self.now, monotonic_s=lambda: self.now)
        )
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.open: list[Made] = []
        self.kept: dict[str, Made] = {}
        self.conversations: dict[str, tuple[str, list[bytes]]] = {}

    def teardown(self) -> None:
        for made in self.open:
            made.open.close()
        for made in self.kept.values():
            self.delete_quietly(made)
        for id, (owner, _) in self.conversations.items():
            with contextlib.suppress(StoredObjectNotFound):
                self.loop.run_until_complete(self.stores.conversations.delete(owner, id))
        self.loop.close()
        usage = self.stores.index.usage
        assert (usage.held_bytes, usage.pinned_bytes) == (0, 0)
        assert len(self.backend) == 0
        assert not self.stores.index.graph.items
        assert not self.stores.index.graph.turns

    @property
    def backend(self) -> MemoryBackend:
        assert isinstance(self.stores.index.backend, MemoryBackend)
        return self.stores.index.backend

    def new_id(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}_{self.number}"

    def items(self, lengths: list[int]) -> list[StoredItem]:
        ids = [self.new_id("msg") for _ in lengths]
        return [
            StoredItem(id, id.encode() + b"x" * length)
            for id, length in zip(ids, lengths, strict=True)
        ]

    # ---------------------------------------------------------------- rules

    @rule(target=running, owner=owners, lengths=sizes, choice=st.integers(0, 20))
    def begin(self, owner: str, lengths: list[int], choice: int) -> Made:
        """Begin a response, mostly after another one or in a conversation."""
        previous = [made for made in self.kept.values() if made.owner == owner]
        places = [id for id, (whose, _) in self.conversations.items() if whose == owner]
        after = previous[-choice % len(previous)] if previous and choice % 3 else None
        place = places[0] if places and after is None and choice % 2 else None
        response = self.loop.run_until_complete(self.try_open(owner, after, place))
        response.inputs = self.items(lengths)
        context = [item.data for item in response.context]
        if after is not None and context:
            assert context == after.context + after.inputs + after.outputs
        inputs = [item.data for item in response.inputs]
        made = Made(owner, response.id, response, context, inputs)
        self.open.append(made)
        return made

    async def try_open(self, owner: str, after: Made | None, place: str | None) -> OpenResponse:
        """Open a response, without a context where that is evicted by now."""
        id = self.new_id("resp")
        try:
            return await self.stores.responses.open(
                owner,
                id,
                previous_response_id=None if after is None else after.id,
                conversation_id=place,
            )
        except (InvalidRequest, StoredObjectNotFound):
            return await self.stores.responses.open(owner, id)

    @rule(made=running, size=st.integers(0, 3000))
    def queue(self, made: Made, size: int) -> None:
        if made in self.open and not made.is_queued:
            try:
                self.loop.run_until_complete(made.open.queue(b"q" * size))
            except (Overloaded, InvalidRequest):
                return
            made.is_queued = True

    @rule(made=running, size=st.integers(0, 4000))
    def log(self, made: Made, size: int) -> None:
        if made in self.open and made.is_queued and not made.open.is_deleted:
            made.open.log.append(b"e" * size)
            made.last_event = EVENT_BYTES + size

    @rule(made=running, lengths=sizes, status=st.sampled_from(["completed", "failed"]))
    def finish(self, made: Made, lengths: list[int], status: str) -> None:
        if made not in self.open:
            return
        self.open.remove(made)
        outputs = self.items(lengths)
        made.outputs = [item.data for item in outputs]
        is_kept = self.loop.run_until_complete(
            made.open.finish("completed" if status == "completed" else "failed", b"{}", outputs)
        )
        if is_kept:
            self.kept[made.id] = made

    @rule(made=running)
    def abandon(self, made: Made) -> None:
        if made in self.open:
            self.open.remove(made)
            made.open.close()

    @rule(choice=st.integers(0, 20))
    def delete(self, choice: int) -> None:
        everything = [*self.kept.values(), *(made for made in self.open if made.is_queued)]
        if everything:
            made = everything[choice % len(everything)]
            self.kept.pop(made.id, None)
            self.delete_quietly(made)

    def delete_quietly(self, made: Made) -> None:
        with contextlib.suppress(StoredObjectNotFound):
            self.loop.run_until_complete(self.stores.responses.delete(made.owner, made.id))

    @rule(owner=owners, lengths=sizes)
    def create_conversation(self, owner: str, lengths: list[int]) -> None:
        id, items = self.new_id("conv"), self.items(lengths)
        try:
            self.loop.run_until_complete(
                self.stores.conversations.create(owner, id, b"{}", items, self.now)
            )
        except InvalidRequest:
            return
        self.conversations[id] = owner, []

    @rule(lengths=sizes, choice=st.integers(0, 9))
    def change_conversation(self, lengths: list[int], choice: int) -> None:
        """Add items, or remove the first one."""
        if not self.conversations:
            return
        id = list(self.conversations)[choice % len(self.conversations)]
        owner, _ = self.conversations[id]
        try:
            if choice % 2:
                self.loop.run_until_complete(
                    self.stores.conversations.add_items(owner, id, self.items(lengths))
                )
            else:
                self.loop.run_until_complete(self.remove_first(owner, id))
        except (InvalidRequest, StoredObjectNotFound):
            pass

    async def remove_first(self, owner: str, id: str) -> None:
        before = await self.stores.conversations.list_items(owner, id, ALL)
        if before.items:
            await self.stores.conversations.delete_item(owner, id, before.items[0].id)
            after = await self.stores.conversations.list_items(owner, id, ALL)
            assert after.items == before.items[1:]

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # ---------------------------------------------------------------- invariants

    @invariant()
    def bytes_are_those_of_what_is_reachable(self) -> None:
        index = self.stores.index
        reachable: set[Turn] = set()
        for entry in index.entries.values():
            reachable |= set(chain_of(entry.turn))
        held = {made.open._before for made in self.open if made.open._is_pinned} - {None}
        for turn in held:
            reachable |= set(chain_of(turn))
        assert set(index.graph.turns.values()) == reachable
        items = {item for turn in reachable for item in turn.items}
        assert set(index.graph.items.values()) == items
        sizes = [turn.size for turn in reachable] + [item.size for item in items]
        expected = sum(sizes) + sum(entry.size for entry in index.entries.values())
        assert index.usage.held_bytes == expected
        assert sum(index.owner(name).held_bytes for name in OWNERS) == expected
        keys = [*item_keys(index.graph.items), *map(data_key, index.entries)]
        assert None not in self.loop.run_until_complete(self.backend.read(keys))
        assert len(self.backend) == len(keys)

    @invariant()
    def the_bound_is_kept_and_owners_leave_room(self) -> None:
        usage = self.stores.index.usage
        # Of each log the last event is kept, even without room for it.
        last_events = sum(made.last_event for made in self.open if made.is_queued)
        assert usage.held_bytes <= BOUND + last_events
        assert 0 <= usage.pinned_bytes <= usage.held_bytes
        for name in OWNERS:
            owner = self.stores.index.owner(name)
            assert 0 <= owner.pinned_bytes <= owner.held_bytes
        # Whoever holds nothing in use finds room for something.
        assert usage.pinned_bytes < BOUND + last_events

    @invariant()
    def what_is_kept_is_whole(self) -> None:
        for made in list(self.kept.values()):
            try:
                found = self.loop.run_until_complete(self.stores.responses.get(made.owner, made.id))
            except StoredObjectNotFound:
                del self.kept[made.id]
                continue
            assert [item.data for item in found.outputs] == made.outputs
            page = self.loop.run_until_complete(
                self.stores.responses.list_inputs(made.owner, made.id, ALL)
            )
            assert [item.data for item in page.items] == (made.context + made.inputs)[:MAX_LIMIT]

    @invariant()
    def what_waits_or_runs_is_not_evicted(self) -> None:
        for made in self.open:
            if made.is_queued and not made.open.is_deleted:
                self.loop.run_until_complete(self.stores.responses.get(made.owner, made.id))


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
