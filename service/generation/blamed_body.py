"""The body of one request, refused while it is known to have killed workers."""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from service.errors import InvalidRequest, WorkerCrashed
from service.inflight.blamed_bodies import BlamedBodies

INVALID_PROMPT = "invalid_prompt"


class BlamedBody:
    """A body by its hash: it is known once a request with it has crashed the worker."""

    def __init__(self, blamed: BlamedBodies, owner: str, body: bytes) -> None:
        self._blamed = blamed
        self._owner = owner
        self._digest = hashlib.sha256(body).digest()

    def refuse_known(self) -> None:
        """Refuse the request before it kills another worker.

        Raises:
            InvalidRequest: the same request crashed the worker within the last ten minutes.
        """
        if self._blamed.known(self._owner, self._digest):
            raise InvalidRequest(
                "This request crashed the worker when it was sent before; change it, or wait.",
                code=INVALID_PROMPT,
            )

    def note(self, error: BaseException) -> None:
        """Remember the body if this is how its request ended."""
        if isinstance(error, WorkerCrashed):
            self.add()

    def add(self) -> None:
        """Remember the body."""
        self._blamed.add(self._owner, self._digest)


async def body_of(http_request: Request) -> bytes:
    """The body of a request, which can be read again.

    Raises:
        MlxdError: the size of the body is invalid.
    """
    body: bytes = await http_request.state.request_reader.body()
    return body
