"""Responses and items as the store keeps them, and as clients read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request

from service.api.responses.shapes.items import (
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    ReasoningText,
)
from service.api.responses.shapes.queries import read_include
from service.api.responses.shapes.request import ENCRYPTED
from service.api.responses.shapes.response import OutputItem, Response
from service.errors import InvalidRequest, excerpt
from service.schema.object_ids import ObjectIds
from service.store.backends.rows import StoredItem
from service.store.encoded_thinking import EncodedThinking
from service.store.open_response import OpenResponse
from service.store.opening import COMMON_OWNER, Stores
from service.store.pages import ItemPage
from service.store.responses import StoredResponse

# How many items are read or written before others have their turn: about a millisecond.
ITEMS_AT_ONCE = 64

INPUT_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
DECODER: msgspec.json.Decoder[InputItem] = msgspec.json.Decoder(InputItem)
ENCODER = msgspec.json.Encoder()


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of items."""

    object: str = "list"
    data: list[msgspec.Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool


def owner_of(http_request: Request) -> str:
    """Whose objects a request may read: those of its API key; without keys all are one owner's."""
    name: str = http_request.scope.get("state", {}).get("key_name") or COMMON_OWNER
    return name


class ItemResolver:
    """Replaces what items leave to the service: references, and reasoning without its text."""

    def __init__(self, stores: Stores, thinking: EncodedThinking) -> None:
        self._store = stores.responses
        self._ids = stores.ids
        self._thinking = thinking

    async def resolve(
        self, items: Sequence[InputItem], owner: str
    ) -> tuple[list[InputItem], list[StoredItem]]:
        """The items as they are read, and as they are stored.

        Raises:
            InvalidRequest: a reference is to an unknown item, or reasoning has no text that can
                be read.
        """
        resolved: list[InputItem] = []
        stored: list[StoredItem] = []
        for index, item in enumerate(items):
            if index % ITEMS_AT_ONCE == 0:
                await asyncio.sleep(0)
            own: StoredItem | None = None
            shown: InputItem = item
            match item:
                case ItemReference(id=id):
                    own = await self._store.find_item(owner, id)
                    if own is None:
                        reason = self._ids.explain(id)
                        raise unknown_item(f"input[{index}].id", id, reason)
                    shown = read_item(own)
                case ReasoningItem() if not item.text:
                    shown = await self._find_reasoning(item, owner, f"input[{index}]")
            resolved.append(shown)
            stored.append(own or store_input(shown, self._ids))
        return resolved, stored

    async def _find_reasoning(self, item: ReasoningItem, owner: str, path: str) -> ReasoningItem:
        """Reasoning by its encoded form, or by its id; as it is if neither says anything."""
        if item.encrypted_content:
            decoded = self._thinking.decode(item.encrypted_content)
            if decoded is None:
                param = f"{path}.encrypted_content"
                raise InvalidRequest(
                    f"`{param}` is not of this server, and the item has no text.",
                    param=param,
                    code="invalid_encrypted_content",
                )
            content = [ReasoningText(decoded.text)]
            return msgspec.structs.replace(item, content=content)
        found = await self._store.find_item(owner, item.id) if item.id else None
        known = read_item(found) if found is not None else None
        return known if isinstance(known, ReasoningItem) else item


def unknown_item(param: str, id: str, reason: str = "") -> InvalidRequest:
    """The error for a reference to an item that is not stored here, or is another owner's."""
    ending = f": {reason}." if reason else "."
    message = f"`{param}`: Item with id '{excerpt(id, 100)}' not found{ending}"
    return InvalidRequest(message, param=param, code="item_not_found")


def read_item(stored: StoredItem) -> InputItem:
    """A stored item, of input or output."""
    return DECODER.decode(stored.data)


async def read_items(stored: Sequence[StoredItem]) -> list[InputItem]:
    """All these items; others have their turns meanwhile."""
    items: list[InputItem] = []
    for start in range(0, len(stored), ITEMS_AT_ONCE):
        await asyncio.sleep(0)
        items += map(read_item, stored[start : start + ITEMS_AT_ONCE])
    return items


def store_input(item: InputItem, ids: ObjectIds) -> StoredItem:
    """An item of the input as it is stored: with an id and a status, its content a list.

    The SDKs' types require a status of every item but reasoning.
    """
    fields: dict[str, Any] = msgspec.to_builtins(item)
    fields = {name: value for name, value in fields.items() if value is not None}
    id: str = fields.get("id") or ids.new(INPUT_PREFIXES[fields["type"]])
    if isinstance(item, MessageItem):
        if isinstance(item.content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            fields["content"] = [{"type": kind, "text": item.content}]
        for part in fields["content"]:
            drop_nulls(part)
            if part["type"] == "output_text":
                part.setdefault("annotations", [])
    if not isinstance(item, ReasoningItem):
        fields.setdefault("status", "completed")
    return StoredItem(id, ENCODER.encode({**fields, "id": id}))


def drop_nulls(fields: dict[str, Any]) -> None:
    """Remove the fields that are null."""
    for name in [name for name, value in fields.items() if value is None]:
        del fields[name]


def store_outputs(items: Iterable[OutputItem]) -> list[StoredItem]:
    """The items of an output as they are stored."""
    return [StoredItem(item.id, ENCODER.encode(item)) for item in items]


def store_response(response: Response) -> bytes:
    """A response as it is stored: without its items."""
    return ENCODER.encode(msgspec.structs.replace(response, output=[]))


async def keep(opened: OpenResponse, response: Response) -> None:
    """Store a response that has ended, if it is to be stored."""
    await opened.finish(
        response.status,
        store_response(response),
        store_outputs(response.output),
        is_stored=response.store,
    )


def show(found: StoredResponse, thinking: EncodedThinking | None = None) -> dict[str, Any]:
    """A stored response with its items; with `thinking` its reasoning has its encoded form."""
    fields: dict[str, Any] = msgspec.json.decode(found.data)
    fields["status"] = found.status
    fields["output"] = [show_item(item, thinking, fields["model"]) for item in found.outputs]
    return fields


def encoder_asked_for(http_request: Request, thinking: EncodedThinking) -> EncodedThinking | None:
    """What encodes reasoning, if the query asks for its encoded form.

    Raises:
        InvalidRequest: the query asks to include what no item has.
    """
    return thinking if ENCRYPTED in read_include(http_request) else None


def show_item(
    item: StoredItem, thinking: EncodedThinking | None = None, model: str = ""
) -> msgspec.Raw:
    """An item as clients read it; with `thinking` reasoning has its encoded form.

    The encoded form has the name of the `model` where it is known; only its text is read again.
    """
    shown = msgspec.Raw(item.data)
    if thinking is None:
        return shown
    fields: dict[str, Any] = msgspec.json.decode(item.data)
    if fields["type"] != "reasoning":
        return shown
    parts = fields.get("content") or fields.get("summary") or []
    fields["encrypted_content"] = thinking.encode(model, "".join(part["text"] for part in parts))
    return msgspec.Raw(ENCODER.encode(fields))


def show_page(page: ItemPage, thinking: EncodedThinking | None = None) -> ItemList:
    """A page of items as clients read it; see `show_item`."""
    return ItemList(
        data=[show_item(item, thinking) for item in page.items],
        first_id=page.first_id,
        last_id=page.last_id,
        has_more=page.has_more,
    )
