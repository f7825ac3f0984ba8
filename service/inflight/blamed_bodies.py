"""Bodies of requests that killed workers, remembered so that a retry kills no more of them."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED_S = 600.0
MAX_PER_OWNER = 1024


class BlamedBodies:
    """Hashes of bodies, by owner: at most 1,024 of each, for ten minutes.

    For the endpoints of Responses and Messages, whose clients send the same request again after a
    failure. They `add` the body of a request that ended with `WorkerCrashed`, and refuse with
    `invalid_prompt`, before anything is submitted, one that is `known`.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # The time that each is remembered until, the oldest first.
        self._by_owner: dict[str, OrderedDict[bytes, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_owner.values()))

    def add(self, owner: str, body: bytes) -> None:
        """Remember a body that killed a worker, from now on."""
        bodies = self._by_owner.setdefault(owner, OrderedDict())
        digest = hashlib.sha256(body).digest()
        bodies[digest] = self._now() + REMEMBERED_S
        bodies.move_to_end(digest)
        if len(bodies) > MAX_PER_OWNER:
            bodies.popitem(last=False)

    def known(self, owner: str, body: bytes) -> bool:
        """Whether this body of this owner killed a worker in the last ten minutes."""
        bodies = self._by_owner.get(owner)
        if bodies is None:
            return False
        now = self._now()
        while bodies and next(iter(bodies.values())) <= now:
            bodies.popitem(last=False)
        if not bodies:
            del self._by_owner[owner]
            return False
        return hashlib.sha256(body).digest() in bodies
