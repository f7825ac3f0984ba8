"""A worker is hung if it answers no ping, or if one device call takes too long."""

from __future__ import annotations

import pytest

from protocol.messages import Pong
from service.supervision.worker_clocks import (
    RECKONED_TIMES,
    StallTimer,
    Timeouts,
    WorkerClocks,
)

STALL_S, LOAD_TIMEOUT_S, TICK_S = 4.0, 50.0, 0.5


class Watched:
    """The clocks of a worker whose answers to pings are given; time advances by ticks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clocks = WorkerClocks(
            Timeouts(load_timeout_s=LOAD_TIMEOUT_S, stall_s=STALL_S), self.now
        )

    def seconds_until_hung(
        self, pong: Pong | None, *, ready: bool = True
    ) -> tuple[float, str | None]:
        """How long it takes with this answer to each ping, up to ten times all limits; and why."""
        began = self.now
        while self.now - began < 10 * LOAD_TIMEOUT_S:
            self.now += TICK_S
            if reason := self.clocks.advance(self.now, TICK_S, ready=ready):
                return self.now - began, reason
            if self.clocks.take_ping() and pong is not None:
                self.clocks.record_pong(pong, self.now)
        return self.now - began, None


def test_an_idle_worker_that_answers_is_never_hung() -> None:
    assert Watched().seconds_until_hung(Pong())[1] is None


def test_a_worker_that_answers_no_ping_is_hung_after_the_stall_time_idle_too() -> None:
    watched = Watched()
    watched.clocks.record_pong(Pong(), 0.0)
    seconds, reason = watched.seconds_until_hung(None)
    assert reason == "no answer to a ping for 4 s"
    assert STALL_S < seconds <= STALL_S + 2 * TICK_S


@pytest.mark.parametrize("reckoned_s", [0.0, 0.1, 1.0, 3.0])
def test_a_device_call_may_take_the_stall_time_or_a_multiple_of_its_reckoned_time(
    reckoned_s: float,
) -> None:
    seconds, reason = Watched().seconds_until_hung(Pong(7, reckoned_s))
    limit_s = max(STALL_S, RECKONED_TIMES * reckoned_s)
    assert reason == f"a device call did not end within {limit_s:g} s"
    assert limit_s < seconds <= limit_s + 3 * TICK_S


def test_reading_a_slice_of_a_model_may_take_as_long_as_loading() -> None:
    seconds, reason = Watched().seconds_until_hung(Pong(7, 0.0, loading=True))
    assert reason is not None
    assert seconds > LOAD_TIMEOUT_S


def test_each_device_call_has_its_own_time() -> None:
    watched = Watched()
    for call in range(1, 200):
        watched.now += TICK_S
        assert watched.clocks.advance(watched.now, TICK_S, ready=True) is None
        assert watched.clocks.take_ping()
        watched.clocks.record_pong(Pong(call), watched.now)


def test_before_it_is_ready_only_messages_count() -> None:
    watched = Watched()
    seconds, reason = watched.seconds_until_hung(None, ready=False)
    assert reason == "no sign of progress for 50 s"
    assert seconds > LOAD_TIMEOUT_S
    watched.clocks.record_message(watched.now)
    assert watched.clocks.advance(watched.now, TICK_S, ready=False) is None


def test_time_in_which_the_service_was_suspended_does_not_count() -> None:
    watched = Watched()
    watched.clocks.record_pong(Pong(1, 0.0), 0.0)
    assert watched.clocks.take_ping()
    watched.now += 3600.0
    assert watched.clocks.advance(watched.now, TICK_S, ready=True) is None


def test_a_timer_advances_until_it_is_reset() -> None:
    timer = StallTimer(10.0)
    timer.advance(11.0, 2.0)
    timer.advance(12.5, 2.0)
    assert timer.seconds == 2.5
    timer.reset(12.6)
    assert timer.seconds == 0.0


def test_a_timer_counts_only_the_time_since_the_last_reset() -> None:
    timer = StallTimer(10.0)
    timer.reset(11.9)
    timer.advance(12.0, 2.0)
    assert timer.seconds == pytest.approx(0.1)


def test_an_hour_in_which_the_service_was_suspended_counts_as_one_step() -> None:
    timer = StallTimer(10.0)
    timer.advance(3610.0, 2.0)
    assert timer.seconds == 2.0
