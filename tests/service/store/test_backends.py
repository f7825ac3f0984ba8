"""Memory and a file: the same calls have the same results, also where the file is reopened."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MlxdError
from service.store.backends.rows import StoredItem
from service.store.index import Clock
from service.store.opening import Stores, open_memory_stores, open_stores
from service.store.pages import PageQuery

BOUND = 30_000
TTL_S = 1_000.0
OWNERS = ("a", "b")
CLOCK = Clock(lambda: 0.0, lambda: 0.0)
ALL = PageQuery(100, "asc")

# What is called, by whom, after which earlier call, and with how large an item.
Call = tuple[str, str, int, int]
calls = st.lists(
    st.tuples(
        st.sampled_from(["respond", "background", "converse", "create", "add", "delete", "cut"]),
        st.sampled_from(OWNERS),
        st.integers(0, 5),
        st.integers(0, 4_000),
    ),
    max_size=25,
)


async def perform(stores: Stores, number: int, call: Call) -> str:
    """Make one call, and describe its result."""
    name, owner, after, size = call
    response, conversation = f"resp_{number - after}", f"conv_{number - after}"
    item = StoredItem(f"msg_{number}", b"%d" % number * (size // 4))
    try:
        match name:
            case "respond" | "background" | "converse":
                return await respond(stores, number, call, item)
            case "create":
                await stores.conversations.create(owner, f"conv_{number}", b"{}", [item], 0.0)
            case "add":
                await stores.conversations.add_items(owner, conversation, [item])
            case "delete":
                await stores.responses.delete(owner, response)
            case "cut":
                page = await stores.conversations.list_items(owner, conversation, ALL)
                await stores.conversations.delete_item(owner, conversation, page.items[0].id)
    except (MlxdError, IndexError) as error:
        return repr(error)
    return "done"


async def respond(stores: Stores, number: int, call: Call, item: StoredItem) -> str:
    """Make a response, after an earlier one or in a conversation if `after` is not 0."""
    name, owner, after, _ = call
    in_conversation = name == "converse"
    response = await stores.responses.open(
        owner,
        f"resp_{number}",
        previous_response_id=f"resp_{number - after}" if after and not in_conversation else None,
        conversation_id=f"conv_{number - after}" if in_conversation else None,
    )
    async with response:
        response.inputs = [item]
        if name == "background":
            await response.queue(b'{"status":"queued"}')
            await response.update("in_progress", b'{"status":"in_progress"}')
        outputs = [StoredItem(f"out_{number}", item.data)]
        is_kept = await response.finish("completed", b'{"status":"completed"}', outputs)
    return f"{is_kept} {[(each.id, each.data) for each in response.context]}"


async def contents(stores: Stores) -> dict[str, object]:
    """All that can be read."""
    found: dict[str, object] = {}
    for id, entry in sorted(stores.index.entries.items()):
        owner = entry.owner.name
        if entry.kind == "response":
            kept = await stores.responses.get(owner, id)
            page = await stores.responses.list_inputs(owner, id, ALL)
            found[id] = kept.status, kept.data, to_pairs(kept.outputs), to_pairs(page.items)
        else:
            page = await stores.conversations.list_items(owner, id, ALL)
            found[id] = await stores.conversations.get(owner, id), to_pairs(page.items)
    usage = stores.index.usage
    return {**found, "usage": (usage.held_bytes, usage.pinned_bytes)}


def to_pairs(items: Sequence[StoredItem]) -> list[tuple[str, bytes]]:
    """The items without their numbers, which a reopened file may give again."""
    return [(item.id, item.data) for item in items]


async def compare(path: Path, made: Sequence[Call], reopen_every: int) -> None:
    """Check that a file, which is reopened now and then, does what memory does."""
    memory = open_memory_stores(BOUND, TTL_S, clock=CLOCK)
    file = await open_stores(str(path), BOUND, TTL_S, clock=CLOCK)
    for number, call in enumerate(made):
        assert await perform(file, number, call) == await perform(memory, number, call)
        assert await contents(file) == await contents(memory)
        if number % reopen_every == reopen_every - 1:
            before = await contents(file)
            await file.close()
            file = await open_stores(str(path), BOUND, TTL_S, clock=CLOCK)
            assert await contents(file) == before
            # Use is not written down: only a file that nobody evicts from is compared further.
            if memory.index.usage.held_bytes > BOUND // 2:
                break
    await file.close()


@settings(max_examples=40, deadline=None)
@given(calls, st.integers(1, 6))
def test_a_file_does_what_memory_does(made: list[Call], reopen_every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder) / "responses.db", made, reopen_every))
