"""Every request is observed: one record of it, told to each observer when it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.requestlog.record import RequestRecord

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who is told of a request that has ended."""

    def observe(self, record: RequestRecord) -> None: ...


class RecordMiddleware:
    """ASGI middleware that puts a `RequestRecord` into `scope["state"]["record"]`.

    Belongs inside `ErrorMiddleware`, which names the request, and outside whatever refuses
    one. An observer that fails hurts no request.
    """

    def __init__(
        self,
        app: ASGIApp,
        observers: Sequence[Observer],
        on_first_token: Callable[[float], None],
        count_restarts: Callable[[], int],
        *,
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
            self._tell(record)

    def _tell(self, record: RequestRecord) -> None:
        for observer in self.observers:
            try:
                observer.observe(record)
            except Exception:
                logger.exception("%s failed", type(observer).__name__)
