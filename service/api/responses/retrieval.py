"""Stored responses: read, replayed, cancelled and deleted, and the items that they were made of."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import ASGIApp

from service.api.responses.background import BackgroundRuns, ReplayStream
from service.api.responses.shapes.queries import (
    read_page_query,
    read_stream,
)
from service.api.responses.stored import encoder_asked_for, owner_of, show, show_page
from service.errors import JSON_MEDIA_TYPE, InvalidRequest
from service.http.json_io import json_response
from service.schema.queries import read_number
from service.store.encoded_thinking import EncodedThinking
from service.store.opening import Stores


class DeletedResponse(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: str = "response"
    deleted: bool = True


class RetrievalEndpoints:
    """The endpoints of stored responses; another owner's are unknown."""

    def __init__(
        self,
        stores: Stores,
        thinking: EncodedThinking,
        runs: BackgroundRuns,
        *,
        keep_alive_s: float,
    ) -> None:
        self._store = stores.responses
        self._thinking = thinking
        self._runs = runs
        self._keep_alive_s = keep_alive_s

    async def get(self, http_request: Request) -> ASGIApp:
        """A response as it is now, or its events.

        Raises:
            StoredObjectNotFound: the id is unknown.
            InvalidRequest: the query is invalid, it has no events, or they are no longer kept.
        """
        id = http_request.path_params["id"]
        found = await self._store.get(owner_of(http_request), id)
        thinking = encoder_asked_for(http_request, self._thinking)
        if not read_stream(http_request):
            return json_bytes(msgspec.json.encode(show(found, thinking)))
        if found.is_background and found.log is None:
            raise InvalidRequest(
                "The service was restarted since, and the events of this response are not kept; "
                "retrieve the response without stream.",
                param="stream",
                code="events_not_kept",
            )
        if found.log is None or not found.log.next_number:
            message = "Only a background response that was created with `stream` has events."
            raise InvalidRequest(message, param="stream", code="invalid_value")
        starting_after = read_number(http_request, "starting_after", -1)
        found.log.check_position(starting_after)
        run = self._runs.find(id)
        return ReplayStream(http_request, found.log, starting_after, run, self._keep_alive_s)

    async def delete(self, http_request: Request) -> HttpResponse:
        """Remove a response; one that runs is cancelled first.

        Raises:
            StoredObjectNotFound: the id is unknown.
        """
        id, owner = http_request.path_params["id"], owner_of(http_request)
        await self._store.get(owner, id)
        if (run := self._runs.find(id)) is not None:
            await run.cancel()
        await self._store.delete(owner, id)
        return json_response(DeletedResponse(id))

    async def cancel(self, http_request: Request) -> HttpResponse:
        """End a response in the background; one that has ended stays as it is.

        Raises:
            StoredObjectNotFound: the id is unknown.
            InvalidRequest: it is no background response.
        """
        id, owner = http_request.path_params["id"], owner_of(http_request)
        found = await self._store.get(owner, id)
        if not found.is_background:
            message = "Only a response that was created with `background` can be cancelled."
            raise InvalidRequest(message, param="id", code="invalid_value")
        if (run := self._runs.find(id)) is not None:
            await run.cancel()
            found = await self._store.get(owner, id)
        return json_bytes(msgspec.json.encode(show(found)))

    async def list_inputs(self, http_request: Request) -> HttpResponse:
        """The items that a response was made of.

        Raises:
            StoredObjectNotFound: the id is unknown.
            InvalidRequest: the query is invalid.
        """
        id, owner = http_request.path_params["id"], owner_of(http_request)
        thinking = encoder_asked_for(http_request, self._thinking)
        page = await self._store.list_inputs(owner, id, read_page_query(http_request))
        return json_response(show_page(page, thinking))


def json_bytes(body: bytes) -> HttpResponse:
    """A response whose body is JSON already."""
    return HttpResponse(body, media_type=JSON_MEDIA_TYPE)
