"""Each observer gets one record of each request, whether it succeeds or fails."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded
from service.requestlog.record import RequestRecord, record_of
from service.requestlog.record_middleware import RecordMiddleware

pytestmark = pytest.mark.anyio


class RecordingObserver:
    """An observer that keeps all records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def observe(self, record: RequestRecord) -> None:
        self.records.append(record)


class FailingObserver:
    """An observer that fails."""

    def observe(self, record: RequestRecord) -> None:
        raise RuntimeError("the observer fails")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    record_of(scope).answer_id = "set by the app"
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def reject(scope: Scope, receive: Receive, send: Send) -> None:
    raise Overloaded("full")


async def get(app: ASGIApp) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.get("/thing")


def observe(app: ASGIApp, *observers: RecordingObserver | FailingObserver) -> RecordMiddleware:
    return RecordMiddleware(
        app,
        observers,
        on_first_token=lambda first_token_s: None,
        count_restarts=lambda: 0,
        keeps_content=False,
    )


async def test_the_record_has_the_status_and_what_the_app_has_set() -> None:
    observer = RecordingObserver()
    assert (await get(observe(answer, observer))).text == "done"
    [record] = observer.records
    assert (record.path, record.status, record.answer_id) == ("/thing", 201, "set by the app")
    assert record.error_code is None


async def test_an_error_is_recorded_and_raised_again() -> None:
    observer = RecordingObserver()
    with pytest.raises(Overloaded):
        await get(observe(reject, observer))
    assert [(record.status, record.error_code) for record in observer.records] == [
        (429, "overloaded")
    ]


async def test_a_failing_observer_affects_neither_the_request_nor_the_others() -> None:
    observer = RecordingObserver()
    assert (await get(observe(answer, FailingObserver(), observer))).status_code == 201
    assert len(observer.records) == 1
