"""/v1/conversations: made, read, changed and deleted, with their items."""

from __future__ import annotations

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from service.api.responses.shapes.conversations import (
    ConversationObject,
    ConversationUpdate,
    DeletedConversation,
    NewConversation,
    NewItems,
)
from service.api.responses.shapes.queries import read_page_query
from service.api.responses.stored import (
    ItemList,
    encoder_asked_for,
    owner_of,
    show_item,
    show_page,
    store_input,
)
from service.errors import JSON_MEDIA_TYPE, InvalidRequest
from service.generation.submitter import Submitter
from service.http.json_io import json_response
from service.store.encoded_thinking import EncodedThinking
from service.store.opening import Stores

ENCODER = msgspec.json.Encoder()


class ConversationEndpoints:
    """The endpoints of conversations; another owner's are unknown."""

    def __init__(self, submitter: Submitter, stores: Stores, thinking: EncodedThinking) -> None:
        self._submitter = submitter
        self._thinking = thinking
        self._store = stores.conversations
        self._ids = stores.ids

    async def create(self, http_request: Request) -> HttpResponse:
        """Make a conversation; without a body it is empty.

        Raises:
            InvalidRequest: the body is invalid, or nothing is stored here.
        """
        has_body = bool(await http_request.state.request_reader.body())
        request = NewConversation()
        if has_body:
            request = await self._submitter.read(http_request, NewConversation)
        if not self._store.is_on:
            message = "This server stores no conversations (setting response_store)."
            raise InvalidRequest(message, code="unsupported_parameter")
        made = ConversationObject(
            id=self._ids.new("conv"), created_at=int(time.time()), metadata=request.metadata or {}
        )
        items = [store_input(item, self._ids) for item in request.items or []]
        await self._store.create(
            owner_of(http_request), made.id, ENCODER.encode(made), items, made.created_at
        )
        return json_response(made)

    async def get(self, http_request: Request) -> HttpResponse:
        """A conversation, without its items."""
        found = await self._store.get(owner_of(http_request), id_of(http_request))
        return HttpResponse(found.data, media_type=JSON_MEDIA_TYPE)

    async def update(self, http_request: Request) -> HttpResponse:
        """Replace the metadata of a conversation."""
        owner, id = owner_of(http_request), id_of(http_request)
        request = await self._submitter.read(http_request, ConversationUpdate)
        found = await self._store.get(owner, id)
        before = msgspec.json.decode(found.data, type=ConversationObject)
        changed = msgspec.structs.replace(before, metadata=request.metadata)
        await self._store.update(owner, id, ENCODER.encode(changed))
        return json_response(changed)

    async def delete(self, http_request: Request) -> HttpResponse:
        """Remove a conversation; responses that were made in it stay."""
        id = id_of(http_request)
        await self._store.delete(owner_of(http_request), id)
        return json_response(DeletedConversation(id))

    async def add_items(self, http_request: Request) -> HttpResponse:
        """Add items at the end of a conversation."""
        thinking = encoder_asked_for(http_request, self._thinking)
        request = await self._submitter.read(http_request, NewItems)
        added = await self._store.add_items(
            owner_of(http_request),
            id_of(http_request),
            [store_input(item, self._ids) for item in request.items],
        )
        return json_response(
            ItemList(
                data=[show_item(item, thinking) for item in added],
                first_id=added[0].id if added else None,
                last_id=added[-1].id if added else None,
                has_more=False,
            )
        )

    async def list_items(self, http_request: Request) -> HttpResponse:
        """A page of the items of a conversation."""
        thinking = encoder_asked_for(http_request, self._thinking)
        query = read_page_query(http_request)
        page = await self._store.list_items(owner_of(http_request), id_of(http_request), query)
        return json_response(show_page(page, thinking))

    async def get_item(self, http_request: Request) -> HttpResponse:
        """One item of a conversation."""
        thinking = encoder_asked_for(http_request, self._thinking)
        item = http_request.path_params["item"]
        found = await self._store.get_item(owner_of(http_request), id_of(http_request), item)
        return HttpResponse(bytes(show_item(found, thinking)), media_type=JSON_MEDIA_TYPE)

    async def delete_item(self, http_request: Request) -> HttpResponse:
        """Remove an item from a conversation; the answer is the conversation."""
        item = http_request.path_params["item"]
        left = await self._store.delete_item(owner_of(http_request), id_of(http_request), item)
        return HttpResponse(left.data, media_type=JSON_MEDIA_TYPE)


def id_of(http_request: Request) -> str:
    """The id of the conversation that the path names."""
    id: str = http_request.path_params["id"]
    return id
