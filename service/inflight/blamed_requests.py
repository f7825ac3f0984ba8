"""Requests that killed workers, remembered so that a retry kills no more of them.

Clients send a request again after a failure: Codex as it was, Claude Code without `stream`. So a
request is known by what its body asks of the worker, whichever API it came by. Its seed and the
limits of its answer are left out: clients change them when they try again.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from protocol.encoding import encode
from protocol.messages import Request, Submit
from service.errors import InvalidRequest

INVALID_PROMPT = "invalid_prompt"
REMEMBERED_S = 600.0
MAX_PER_OWNER = 1024


class BlamedRequests:
    """Hashes of requests, by owner: at most 1,024 of each, for ten minutes."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # The time that each is remembered until, the oldest first.
        self._by_owner: dict[str, OrderedDict[bytes, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_owner.values()))

    def add(self, owner: str, submit: Request) -> None:
        """Remember a request that killed workers, from now on."""
        digests = self._by_owner.setdefault(owner, OrderedDict())
        digest = digest_of(submit)
        digests[digest] = self._now() + REMEMBERED_S
        digests.move_to_end(digest)
        if len(digests) > MAX_PER_OWNER:
            digests.popitem(last=False)

    def refuse_known(self, owner: str, submits: Sequence[Request]) -> None:
        """Refuse a request before it kills another worker.

        Nothing is hashed for an owner none of whose requests killed one.

        Raises:
            InvalidRequest: one of its sequences did within the last ten minutes.
        """
        if not (digests := self._remembered(owner)):
            return
        # The sequences of one prompt differ in what is left out.
        distinct = {id(submit.prompt): submit for submit in submits}
        if any(digest_of(submit) in digests for submit in distinct.values()):
            raise InvalidRequest(
                "This request crashed the worker each time it ran in the last ten minutes, so"
                " that it is not tried again now. Change it, or wait.",
                code=INVALID_PROMPT,
            )

    def _remembered(self, owner: str) -> OrderedDict[bytes, float]:
        """The hashes of this owner that have not expired."""
        digests = self._by_owner.get(owner, OrderedDict())
        now = self._now()
        while digests and next(iter(digests.values())) <= now:
            digests.popitem(last=False)
        if not digests:
            self._by_owner.pop(owner, None)
        return digests


def digest_of(submit: Request) -> bytes:
    """A hash of what the worker is asked for."""
    work: Request
    match submit:
        case Submit():
            work = msgspec.structs.replace(
                submit,
                id=0,
                client="",
                resume=[],
                siblings=[],
                sampling=msgspec.structs.replace(submit.sampling, seed=0),
                max_tokens=None,
                ceiling=False,
                thinking_budget=None,
            )
        case _:
            work = msgspec.structs.replace(submit, id=0, client="")
    return hashlib.sha256(encode(work)).digest()
