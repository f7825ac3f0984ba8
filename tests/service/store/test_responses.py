"""Responses: kept, gone on from, read and deleted, through the store that the API calls."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.errors import InvalidRequest, StoredObjectNotFound
from service.store.backends.rows import StoredItem
from service.store.opening import COMMON_OWNER, Stores, open_memory_stores
from service.store.pages import PageQuery

pytestmark = pytest.mark.anyio

BOUND = 1 << 20
TTL_S = 100.0
OLDEST_FIRST = PageQuery(order="asc")


@pytest.fixture
def stores() -> Stores:
    return open_memory_stores(BOUND, TTL_S)


def item(id: str, size: int = 10) -> StoredItem:
    return StoredItem(id, b'"' + b"x" * size + b'"')


async def respond(
    stores: Stores,
    id: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    after: str | None = None,
    owner: str = COMMON_OWNER,
) -> bool:
    response = await stores.responses.open(owner, id, previous_response_id=after)
    async with response:
        response.inputs = [item(name) for name in inputs]
        return await response.finish("completed", b"{}", [item(name) for name in outputs])


async def test_a_response_goes_on_from_another_whose_response_is_deleted(stores: Stores) -> None:
    assert await respond(stores, "resp_1", ["u1"], ["a1"])
    assert await respond(stores, "resp_2", ["u2"], ["a2"], after="resp_1")
    await stores.responses.delete(COMMON_OWNER, "resp_1")
    with pytest.raises(StoredObjectNotFound):
        await stores.responses.get(COMMON_OWNER, "resp_1")
    found = await stores.responses.get(COMMON_OWNER, "resp_2")
    assert [each.id for each in found.outputs] == ["a2"]
    async with await stores.responses.open(
        COMMON_OWNER, "resp_3", previous_response_id="resp_2"
    ) as response:
        assert [each.id for each in response.context] == ["u1", "a1", "u2", "a2"]
    page = await stores.responses.list_inputs(COMMON_OWNER, "resp_2", OLDEST_FIRST)
    assert [each.id for each in page.items] == ["u1", "a1", "u2"]
    await stores.responses.delete(COMMON_OWNER, "resp_2")
    assert stores.index.usage.held_bytes == 0
    assert stores.index.graph.items == {}


async def test_another_owners_id_is_as_unknown_as_any(stores: Stores) -> None:
    await respond(stores, "resp_1", ["u1"], ["a1"], owner="a")
    texts = set()
    for id in ("resp_1", "resp_0"):
        with pytest.raises(StoredObjectNotFound) as not_found:
            await stores.responses.get("b", id)
        with pytest.raises(InvalidRequest) as no_previous:
            await stores.responses.open("b", "resp_2", previous_response_id=id)
        assert no_previous.value.code == "previous_response_not_found"
        assert no_previous.value.param == "previous_response_id"
        texts.add((not_found.value.message + no_previous.value.message).replace(id, "ID"))
    assert len(texts) == 1


async def test_a_background_response_is_read_while_it_runs_and_replayed(stores: Stores) -> None:
    async with await stores.responses.open(COMMON_OWNER, "resp_1") as response:
        response.inputs = [item("u1")]
        await response.queue(b'{"status":"queued"}')
        assert (await stores.responses.get(COMMON_OWNER, "resp_1")).status == "queued"
        response.log.append(b"0")
        response.log.append(b"1")
        await response.update("in_progress", b'{"status":"in_progress"}')
        assert await response.finish("completed", b'{"status":"completed"}', [item("a1")])
    found = await stores.responses.get(COMMON_OWNER, "resp_1")
    assert (found.status, found.data) == ("completed", b'{"status":"completed"}')
    assert found.log is not None
    assert [event async for event in found.log.read(0)] == [b"1"]


async def test_a_response_with_a_conversation_adds_its_items_to_it(stores: Stores) -> None:
    conversations = stores.conversations
    await conversations.create(COMMON_OWNER, "conv_1", b"{}", [item("u0")], 0.0)
    async with await stores.responses.open(
        COMMON_OWNER, "resp_1", conversation_id="conv_1"
    ) as response:
        assert [each.id for each in response.context] == ["u0"]
        response.inputs = [item("u1")]
        await conversations.add_items(COMMON_OWNER, "conv_1", [item("u2")])
        await response.finish("completed", b"{}", [item("a1")])
    page = await conversations.list_items(COMMON_OWNER, "conv_1", OLDEST_FIRST)
    assert [each.id for each in page.items] == ["u0", "u2", "u1", "a1"]
    await conversations.delete_item(COMMON_OWNER, "conv_1", "u0")
    page = await conversations.list_items(COMMON_OWNER, "conv_1", OLDEST_FIRST)
    assert [each.id for each in page.items] == ["u2", "u1", "a1"]
    page = await stores.responses.list_inputs(COMMON_OWNER, "resp_1", OLDEST_FIRST)
    assert [each.id for each in page.items] == ["u0", "u1"]
    await conversations.delete(COMMON_OWNER, "conv_1")
    await stores.responses.delete(COMMON_OWNER, "resp_1")
    assert stores.index.usage.held_bytes == 0
