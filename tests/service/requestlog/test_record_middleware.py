"""Each request is told to the observers once, whatever becomes of it."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded
from service.requestlog.record import RequestRecord, record_of
from service.requestlog.record_middleware import RecordMiddleware

pytestmark = pytest.mark.anyio


class Notes:
    """An observer."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def observe(self, record: RequestRecord) -> None:
        self.records.append(record)


class Broken:
    """An observer that fails."""

    def observe(self, record: RequestRecord) -> None:
        raise RuntimeError("broken")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    record_of(scope).answer_id = "noted within"
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    raise Overloaded("full")


async def get(app: ASGIApp) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.get("/thing")


def observe(app: ASGIApp, *observers: Notes | Broken) -> RecordMiddleware:
    return RecordMiddleware(app, observers, lambda waited_s: None, lambda: 0, keeps_content=False)


async def test_a_request_is_told_with_its_status_and_what_was_noted_within() -> None:
    notes = Notes()
    assert (await get(observe(answer, notes))).text == "done"
    [record] = notes.records
    assert (record.path, record.status, record.answer_id) == ("/thing", 201, "noted within")
    assert record.error_code is None


async def test_a_refusal_is_told_and_goes_on_outwards() -> None:
    notes = Notes()
    with pytest.raises(Overloaded):
        await get(observe(refuse, notes))
    assert [(record.status, record.error_code) for record in notes.records] == [(429, "overloaded")]


async def test_an_observer_that_fails_hurts_neither_the_request_nor_the_others() -> None:
    notes = Notes()
    assert (await get(observe(answer, Broken(), notes))).status_code == 201
    assert len(notes.records) == 1
