"""Which ranks are there, for how long others are away, and why ranks were lost: a state machine.

A rank is away while rank 0 waits for it, from a few seconds on. That is so where its host cannot
be reached, and where its process is stopped before it has met rank 0.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

# How long the first ranks may take to meet: nothing of them is in the system's cache of files.
FIRST_MEETING_S = 300.0
# A rank that comes later than another one is not at once away.
AWAY_AFTER_S = 5.0

RankState = Literal["starting", "running", "away"]
# By a signal; by its own failure; cut off or stopped, by its missing heartbeats; hung: rank 0
# answers no ping, or a device call does not end.
LossCause = Literal["killed", "failed", "unreachable", "stalled"]


class RankLoss(msgspec.Struct, frozen=True):
    """The rank whose loss has ended the group, and why."""

    rank: int
    cause: LossCause


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank: `away_s` is for how long it is away.

    `restarts` is how often all ranks were started again because of this one.
    """

    rank: int
    host: str
    pid: int | None
    state: RankState
    away_s: float | None
    restarts: dict[LossCause, int]


class Attendance:
    """The ranks of one service. `hosts` has the host of each rank.

    Ranks that do not meet within `meeting_s` start again; each further try may take twice as long.
    No request waits for a rank that is away for `away_limit_s`.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        meeting_s: float,
        away_limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hosts = hosts
        self._meeting_s, self._away_limit_s = meeting_s, away_limit_s
        self._clock = clock
        self._pids: Sequence[int] = ()
        self._met: set[int] = set()
        self._has_begun = False
        self._is_complete = False
        self._was_complete = False
        self._failed_meetings = 0
        self._began = 0.0
        # Since when rank 0 waits for each rank that has not come.
        self._awaited_since: dict[int, float] = {}
        self._losses: Counter[RankLoss] = Counter()

    @property
    def has_absent(self) -> bool:
        """Whether a rank has not come."""
        return bool(self._awaited_since)

    @property
    def reports(self) -> list[RankReport]:
        """All ranks; of one process alone nothing while it does not run."""
        if not self._pids and len(self.hosts) == 1:
            return []
        return [self._report(rank) for rank in range(len(self.hosts))]

    @property
    def losses(self) -> dict[RankLoss, int]:
        """How often each rank has ended the group, by cause."""
        return dict(self._losses)

    def begin(self, pids: Sequence[int]) -> None:
        """The processes of all ranks have started."""
        self._pids = pids
        self._has_begun, self._is_complete = True, False
        self._met, self._began = {0} if len(pids) == 1 else set(), self._clock()

    def meet(self, ranks: Sequence[int], *, complete: bool) -> None:
        """Rank 0 has met these other ranks; with `complete` the group is made."""
        self._met = {0, *ranks}
        for rank in range(len(self.hosts)):
            if rank in self._met:
                self._awaited_since.pop(rank, None)
            else:
                self._awaited_since.setdefault(rank, self._clock())
        if complete:
            self._is_complete = self._was_complete = True
            self._failed_meetings = 0

    def lose(self, loss: RankLoss) -> None:
        """All processes have ended, because of this rank.

        Where they have not met in time, it is because of one that has not come.
        """
        if loss.cause == "stalled" and self._awaited_since:
            loss = RankLoss(min(self._awaited_since), "unreachable")
        if len(self.hosts) > 1:
            self._losses[loss] += 1
            if not self._is_complete:
                self._failed_meetings += 1
            if loss.rank and (loss.cause == "unreachable" or loss.rank not in self._met):
                self._awaited_since.setdefault(loss.rank, self._clock())
        self._pids, self._met = (), set()
        self._has_begun = self._is_complete = False

    def explain_failed_meeting(self) -> str | None:
        """Why these processes have to start again, if the ranks do not meet in time."""
        if not self._has_begun or self._is_complete or len(self.hosts) == 1:
            return None
        limit_s = min(self._meeting_s * 2.0**self._failed_meetings, FIRST_MEETING_S)
        if not self._was_complete:
            limit_s = FIRST_MEETING_S
        if self._clock() - self._began < limit_s:
            return None
        missing = [self._name_of(rank) for rank in sorted(self._awaited_since)]
        what = f"{', '.join(missing)} did not come" if missing else "the ranks did not meet"
        return f"{what} within {limit_s:g} s"

    def explain_absence(self) -> str | None:
        """Why no request should wait any more, if a rank is away for too long."""
        for rank, since in self._awaited_since.items():
            if self._clock() - since >= self._away_limit_s:
                return f"{self._name_of(rank)} has been away for {self._away_limit_s:g} s"
        return None

    def _name_of(self, rank: int) -> str:
        if len(set(self.hosts)) == 1:
            return f"rank {rank}"
        return f"rank {rank} on host {self.hosts[rank]}"

    def _report(self, rank: int) -> RankReport:
        since = self._awaited_since.get(rank)
        away_s = None if since is None else self._clock() - since
        is_away = away_s is not None and away_s >= AWAY_AFTER_S
        return RankReport(
            rank=rank,
            host=self.hosts[rank],
            pid=self._pids[rank] if self._pids else None,
            state="away" if is_away else "running" if rank in self._met else "starting",
            away_s=away_s if is_away else None,
            restarts={
                loss.cause: count for loss, count in self._losses.items() if loss.rank == rank
            },
        )
