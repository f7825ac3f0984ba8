"""A worker's end is told in words and fields, and one for want of memory is recognised."""

from __future__ import annotations

import signal

import pytest

from service.supervision.exit_reason import describe_exit, looks_like_memory


def test_a_signal_is_named() -> None:
    end = describe_exit(-signal.SIGSEGV, "busy", 1.23456, last_words=None, stalled=None)
    assert (end.reason, end.signal, end.code) == ("signal SIGSEGV", "SIGSEGV", None)
    assert (end.phase, end.uptime_s) == ("busy", 1.235)


def test_a_signal_without_a_name_has_its_number() -> None:
    assert describe_exit(-200, "idle", 0.0, last_words=None, stalled=None).signal == "200"


def test_an_exit_code_is_told_with_the_last_words_where_there_were_some() -> None:
    assert describe_exit(3, "idle", 0.0, last_words=None, stalled=None).reason == "exit code 3"
    end = describe_exit(70, "busy", 0.0, last_words="the device failed", stalled=None)
    assert (end.reason, end.signal, end.code) == ("the device failed", None, 70)


def test_silence_is_the_reason_of_an_end_that_it_caused() -> None:
    end = describe_exit(
        -signal.SIGKILL, "busy", 0.0, last_words=None, stalled="no sign of progress"
    )
    assert (end.reason, end.signal) == ("no sign of progress", "SIGKILL")


@pytest.mark.parametrize(
    ("status", "last_words", "stalled", "expected"),
    [
        (-signal.SIGKILL, None, None, True),
        (-signal.SIGKILL, None, "no sign of progress", False),
        (-signal.SIGSEGV, None, None, False),
        (70, "the device failed: [metal::malloc] Attempting to allocate", None, True),
        (70, "the device failed: [malloc] Unable to allocate 8 bytes.", None, True),
        (70, "the device failed: std::bad_alloc", None, True),
        (70, "the device failed: [Event::wait] Timed out", None, False),
        (70, None, None, False),
    ],
)
def test_an_end_for_want_of_memory_is_one_by_sigkill_or_with_the_allocators_words(
    status: int, last_words: str | None, stalled: str | None, expected: bool
) -> None:
    assert looks_like_memory(status, last_words, stalled) is expected
