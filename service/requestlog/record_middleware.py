"""Creates a record for each request and passes it to the observers at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.requestlog.record import RequestRecord

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Gets the record of each request that has ended."""

    def observe(self, record: RequestRecord) -> None: ...


class RecordMiddleware:
    """ASGI middleware that puts a `RequestRecord` into `scope["state"]["record"]`.

    It must be inside `ErrorMiddleware`, which sets the request id, and outside of everything
    that can reject a request. An error of an observer does not affect the request.
    """

    def __init__(
        self,
        app: ASGIApp,
        observers: Sequence[Observer],
        *,
        on_first_token: Callable[[float], None],
        count_restarts: Callable[[], int],
        keeps_content: bool,
    ) -> None:
        self.app = app
        self.observers = tuple(observers)
        self.on_first_token = on_first_token
        self.count_restarts = count_restarts
        self.keeps_content = keeps_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        record = RequestRecord(
            keeps_content=self.keeps_content,
            on_first_token=self.on_first_token,
            count_restarts=self.count_restarts,
        )
        scope.setdefault("state", {})["record"] = record

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            record.end(scope)
            self._notify(record)

    def _notify(self, record: RequestRecord) -> None:
        for observer in self.observers:
            try:
                observer.observe(record)
            except Exception:
                logger.exception("%s failed", type(observer).__name__)
