"""Rank 0's plans: its calls and decisions in their order, sent to all other ranks."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from protocol.ranks import RankGroup
from worker.ranks.joining.frames import Frames
from worker.ranks.plan import Advance, Entry, Forget, Plan, TokenDigest, encode


class Recorder:
    """Collects entries, and sends them as one plan; used by the device's thread alone.

    `ranks` are the connections to the other ranks of `group`.
    """

    def __init__(self, ranks: Mapping[int, Frames], group: RankGroup) -> None:
        self._ranks = ranks
        self._group = group
        self._entries: list[Entry] = []
        # Filled whenever an object is freed, by whatever thread frees it.
        self._freed: deque[Forget] = deque()
        self._numbers = itertools.count()
        self._number_of: dict[int, int] = {}
        self.digest = TokenDigest()

    def register(self, kind: Literal["model", "cache", "engine"], owner: Any) -> int:
        """A number for this object; the other ranks free theirs once it is freed."""
        number = next(self._numbers)
        self._number_of[id(owner)] = number
        weakref.finalize(owner, self._free, kind, number, id(owner)).atexit = False
        return number

    def number_of(self, owner: Any) -> int:
        """The number of a registered object."""
        return self._number_of[id(owner)]

    def add(self, entry: Entry) -> None:
        """Add an entry to the next plan."""
        self._entries.append(entry)

    def begin_step(self, engine: int, *, prefills: bool) -> None:
        """Add a step; until it has ended, all entries are decisions of it."""
        self._add_freed()
        self._entries.append(Advance(engine, prefills))

    def send(self) -> None:
        """Send what was added.

        Raises:
            RankLost: a rank cannot be reached.
        """
        if not self._entries:
            return
        entries, self._entries = self._entries, []
        body = encode(Plan(self.digest.read(), entries))
        for rank, frames in self._ranks.items():
            try:
                frames.send(body)
            except OSError as error:
                reason = self._group.with_host(rank, f"it cannot be reached: {error}")
                raise RankLost(rank, reason) from error

    def send_freed(self) -> None:
        """Send which objects were freed, between two steps."""
        self._add_freed()
        self.send()

    def _free(self, kind: Literal["model", "cache", "engine"], number: int, owner: int) -> None:
        del self._number_of[owner]
        self._freed.append(Forget(kind, number))

    def _add_freed(self) -> None:
        while self._freed:
            self._entries.append(self._freed.popleft())


class RankLost(BaseException):
    """A rank is lost, so this process has to end.

    It is no `Exception`: what catches the errors of one row or one model does not catch it.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(reason)
        self.rank, self.reason = rank, reason
