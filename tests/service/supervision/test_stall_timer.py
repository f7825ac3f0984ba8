"""The stall timer counts time without messages, but not time the service was suspended."""

from __future__ import annotations

import pytest

from service.supervision.stall_timer import StallTimer


def test_it_advances_until_it_is_reset() -> None:
    timer = StallTimer(10.0)
    timer.advance(11.0, 2.0)
    timer.advance(12.5, 2.0)
    assert timer.seconds == 2.5
    timer.reset(12.6)
    assert timer.seconds == 0.0


def test_it_counts_only_the_time_since_the_last_reset() -> None:
    timer = StallTimer(10.0)
    timer.reset(11.9)
    timer.advance(12.0, 2.0)
    assert timer.seconds == pytest.approx(0.1)


def test_an_hour_in_which_the_service_was_suspended_counts_as_one_step() -> None:
    timer = StallTimer(10.0)
    timer.advance(3610.0, 2.0)
    assert timer.seconds == 2.0
