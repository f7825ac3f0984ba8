"""A request with very many items leaves turns to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from service.api.responses.shapes.items import InputItem, MessageItem
from service.api.responses.stored import ITEMS_AT_ONCE, ItemResolver, read_items
from tests.service.parts import make_parts

pytestmark = pytest.mark.anyio

TURNS = 20
ITEMS: list[InputItem] = [MessageItem(role="user", content="x")] * (TURNS * ITEMS_AT_ONCE)


async def turns_of_others(work: Awaitable[object]) -> int:
    """How many turns another task has meanwhile."""
    turns = 0
    running = asyncio.ensure_future(work)
    while not running.done():
        turns += 1
        await asyncio.sleep(0)
    await running
    return turns


async def test_others_have_turns_while_items_are_stored_and_read() -> None:
    parts = make_parts()
    resolver = ItemResolver(parts.stores, parts.thinking)
    _, stored = await resolver.resolve(ITEMS, "")
    assert len(stored) == len(ITEMS)
    assert await turns_of_others(resolver.resolve(ITEMS, "")) >= TURNS
    assert await turns_of_others(read_items(stored)) >= TURNS
    assert len(await read_items(stored)) == len(ITEMS)
