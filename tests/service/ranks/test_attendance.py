"""Which ranks are there, for how long one is away, and what was lost with which rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranks.attendance import (
    AWAY_AFTER_S,
    FIRST_MEETING_S,
    Attendance,
    RankLoss,
    RankReport,
)

HOSTS = ["one", "two", "three"]
AWAY_LIMIT_S, MEETING_S = 60.0, 20.0
PIDS = [100, 101, 102]
OTHERS = st.lists(st.sampled_from([1, 2]), unique=True)


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attendance(clock: Clock) -> Attendance:
    return make(clock)


def make(clock: Clock, hosts: list[str] = HOSTS) -> Attendance:
    return Attendance(hosts, meeting_s=MEETING_S, away_limit_s=AWAY_LIMIT_S, clock=clock)


def run_together(attendance: Attendance) -> None:
    """All ranks start, and meet."""
    attendance.begin(PIDS)
    attendance.meet([], complete=False)
    attendance.meet([1, 2], complete=True)


def states(attendance: Attendance) -> list[str]:
    return [report.state for report in attendance.reports]


def test_ranks_start_and_run(attendance: Attendance) -> None:
    assert states(attendance) == ["starting"] * 3
    attendance.begin(PIDS)
    assert states(attendance) == ["starting"] * 3
    attendance.meet([2], complete=False)
    assert states(attendance) == ["running", "starting", "running"]
    attendance.meet([1, 2], complete=True)
    assert attendance.reports[1] == RankReport(
        rank=1, host="two", pid=101, state="running", away_s=None, restarts={}
    )


def test_a_rank_that_cannot_be_reached_is_away_until_it_comes(
    attendance: Attendance, clock: Clock
) -> None:
    run_together(attendance)
    attendance.lose(RankLoss(1, "unreachable"))
    attendance.begin(PIDS)
    attendance.meet([2], complete=False)
    clock.now += AWAY_LIMIT_S - 1
    report = attendance.reports[1]
    assert (report.state, report.away_s) == ("away", AWAY_LIMIT_S - 1)
    assert (report.pid, report.restarts) == (101, {"unreachable": 1})
    assert attendance.explain_absence() is None
    clock.now += 1
    assert attendance.explain_absence() == "rank 1 on host two has been away for 60 s"
    attendance.meet([1, 2], complete=True)
    assert attendance.explain_absence() is None
    assert states(attendance) == ["running"] * 3


def test_a_killed_rank_is_not_away_unless_it_does_not_come_back(
    attendance: Attendance, clock: Clock
) -> None:
    run_together(attendance)
    attendance.lose(RankLoss(2, "killed"))
    clock.now += 2 * AWAY_LIMIT_S
    assert (attendance.has_absent, attendance.explain_absence()) == (False, None)
    attendance.begin(PIDS)
    attendance.meet([1], complete=False)
    assert states(attendance) == ["running", "running", "starting"]
    clock.now += AWAY_AFTER_S
    assert states(attendance) == ["running", "running", "away"]


def test_a_rank_that_ends_before_it_has_come_is_away(attendance: Attendance) -> None:
    run_together(attendance)
    attendance.lose(RankLoss(0, "killed"))
    attendance.begin(PIDS)
    attendance.lose(RankLoss(1, "failed"))
    assert attendance.has_absent


def test_ranks_that_do_not_meet_start_again_and_get_longer_each_time(
    attendance: Attendance, clock: Clock
) -> None:
    run_together(attendance)
    attendance.lose(RankLoss(0, "killed"))
    for limit_s in (MEETING_S, 2 * MEETING_S, 4 * MEETING_S):
        attendance.begin(PIDS)
        attendance.meet([2], complete=False)
        clock.now += limit_s - 1
        assert attendance.explain_failed_meeting() is None
        clock.now += 1
        words = f"rank 1 on host two did not come within {limit_s:g} s"
        assert attendance.explain_failed_meeting() == words
        attendance.lose(RankLoss(0, "stalled"))
    assert attendance.losses == {RankLoss(0, "killed"): 1, RankLoss(1, "unreachable"): 3}
    run_together(attendance)
    clock.now += FIRST_MEETING_S
    assert attendance.explain_failed_meeting() is None


def test_the_first_ranks_have_longer(attendance: Attendance, clock: Clock) -> None:
    attendance.begin(PIDS)
    clock.now += FIRST_MEETING_S - 1
    assert attendance.explain_failed_meeting() is None
    clock.now += 1
    assert attendance.explain_failed_meeting() == "the ranks did not meet within 300 s"


def test_one_process_has_nobody_to_meet(clock: Clock) -> None:
    attendance = make(clock, ["one"])
    attendance.begin([100])
    clock.now += FIRST_MEETING_S
    assert states(attendance) == ["running"]
    assert attendance.explain_failed_meeting() is None
    attendance.lose(RankLoss(0, "killed"))
    assert (attendance.reports, attendance.losses) == ([], {})


@given(st.lists(st.tuples(st.sampled_from(["begin", "lose", "wait"]), OTHERS), max_size=20))
def test_once_all_have_met_nobody_is_away_whatever_was_before(
    events: list[tuple[str, list[int]]],
) -> None:
    clock = Clock()
    attendance = make(clock)
    for event, ranks in events:
        match event:
            case "begin":
                attendance.begin(PIDS)
                attendance.meet(ranks, complete=False)
            case "lose":
                attendance.lose(RankLoss(max(ranks, default=0), "unreachable"))
            case _:
                clock.now += 7.0
        assert len(attendance.reports) == 3
    run_together(attendance)
    assert states(attendance) == ["running"] * 3
    assert (attendance.has_absent, attendance.explain_absence()) == (False, None)
