"""Turns of the event loop: what many clients send at once does not hold up everything else.

The loop handles all that is ready before it looks again. When 300 requests arrived at once, one
round took 300 ms, and no stream sent text meanwhile. So each piece of work takes a turn before it
begins. A round has a few turns; the rest of the work waits for the next rounds, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque

# A request takes the service about a millisecond in all.
TURNS_PER_ROUND = 4


class Turns:
    """The turns of the running event loop."""

    def __init__(self, per_round: int = TURNS_PER_ROUND) -> None:
        self._per_round = per_round
        self._left = per_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Whether the next round begins with `_renew`.
        self._is_renewed = False

    async def take(self) -> None:
        """Wait for a turn; there is one at once if this round has one left."""
        self._renew_later()
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _renew_later(self) -> None:
        if not self._is_renewed:
            self._is_renewed = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        """Give the turns of a new round."""
        self._is_renewed = False
        self._left = self._per_round
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            # The task that waited may have been cancelled.
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._left < self._per_round:
            self._renew_later()
