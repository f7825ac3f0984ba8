"""Silence grows while nothing is heard, and only by what the service itself was awake for."""

from __future__ import annotations

import pytest

from service.supervision.stall_timer import StallTimer


def test_it_grows_with_each_look_and_ends_with_a_word() -> None:
    silence = StallTimer(10.0)
    silence.grow(11.0, 2.0)
    silence.grow(12.5, 2.0)
    assert silence.seconds == 2.5
    silence.end(12.6)
    assert silence.seconds == 0.0


def test_what_was_before_the_last_word_is_no_silence() -> None:
    silence = StallTimer(10.0)
    silence.end(11.9)
    silence.grow(12.0, 2.0)
    assert silence.seconds == pytest.approx(0.1)


def test_an_hour_in_which_nobody_listened_is_one_step() -> None:
    silence = StallTimer(10.0)
    silence.grow(3610.0, 2.0)
    assert silence.seconds == 2.0
