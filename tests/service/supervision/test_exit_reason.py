"""An exit is described by a reason and fields, and out of memory is recognised."""

from __future__ import annotations

import signal

import pytest

from service.schema.health import WorkerPhase
from service.supervision.exit_reason import (
    LAST_WORDS_CHARS,
    abort_message,
    describe_exit,
    looks_like_out_of_memory,
    shows_slow_calls,
)


def test_a_signal_is_named() -> None:
    last_exit = describe_exit(-signal.SIGSEGV, "busy", 1.23456, fatal_message=None, stall=None)
    assert (last_exit.reason, last_exit.signal, last_exit.code) == (
        "signal SIGSEGV",
        "SIGSEGV",
        None,
    )
    assert (last_exit.phase, last_exit.uptime_s) == ("busy", 1.235)


def test_a_signal_without_a_name_is_its_number() -> None:
    assert describe_exit(-200, "idle", 0.0, fatal_message=None, stall=None).signal == "200"


def test_the_reason_of_an_exit_code_is_the_fatal_message_if_there_is_one() -> None:
    assert describe_exit(3, "idle", 0.0, fatal_message=None, stall=None).reason == "exit code 3"
    last_exit = describe_exit(70, "busy", 0.0, fatal_message="the device failed", stall=None)
    assert (last_exit.reason, last_exit.signal, last_exit.code) == ("the device failed", None, 70)


def test_a_stall_is_the_reason_of_the_exit_that_it_caused() -> None:
    last_exit = describe_exit(
        -signal.SIGKILL, "busy", 0.0, fatal_message=None, stall="no sign of progress"
    )
    assert (last_exit.reason, last_exit.signal) == ("no sign of progress", "SIGKILL")


def test_the_end_of_standard_error_is_told_with_a_signal_or_an_exit_code() -> None:
    said = "first\n\x1b[31mhttps://me:password@hub.example is \x07down"
    causes = {"fatal_message": None, "stall": None}
    last_exit = describe_exit(-signal.SIGABRT, "busy", 0.0, **causes, last_words=said)
    assert last_exit.reason == (
        "signal SIGABRT; its standard error ended with: "
        "first\\n\\x1b[31mhttps://***@hub.example is \\x07down"
    )
    last_exit = describe_exit(
        70, "busy", 0.0, fatal_message="the device failed", stall=None, last_words=said
    )
    assert last_exit.reason == "the device failed"


def test_of_a_long_standard_error_the_end_is_told() -> None:
    causes = {"fatal_message": None, "stall": None}
    said = "\n" * 4000 + "the end"
    reason = describe_exit(1, "busy", 0.0, **causes, last_words=said).reason
    assert reason.endswith("\\nthe end")
    assert len(reason) < LAST_WORDS_CHARS + 100


@pytest.mark.parametrize(
    ("last_words", "expected"),
    [
        ("worker: WARNING the memory is short\nAborted", None),
        (
            "memory is fine\nlibc++abi: terminating due to uncaught exception: [METAL] GPU Timeout",
            "libc++abi: terminating due to uncaught exception: [METAL] GPU Timeout",
        ),
        (
            "terminate called after throwing an instance of 'E'\n  what():  std::bad_alloc\n",
            "terminate called after throwing an instance of 'E' what():  std::bad_alloc",
        ),
    ],
)
def test_the_message_of_an_abort_is_found_in_the_last_words(
    last_words: str, expected: str | None
) -> None:
    assert abort_message(last_words) == expected


@pytest.mark.parametrize(
    ("status", "fatal_message", "stall", "expected"),
    [
        (-signal.SIGKILL, None, None, True),
        (-signal.SIGKILL, None, "no sign of progress", False),
        (-signal.SIGSEGV, None, None, False),
        (70, "the device failed: [metal::malloc] Attempting to allocate", None, True),
        (70, "the device failed: [malloc] Unable to allocate 8 bytes.", None, True),
        (71, 'the thread receiver failed: RuntimeError("can\'t start new thread")', None, True),
        (70, "the device failed: std::bad_alloc", None, True),
        (70, "the device failed: [Event::wait] Timed out", None, False),
        (70, None, None, False),
    ],
)
def test_out_of_memory_is_recognised_by_sigkill_or_a_failed_allocation(
    status: int, fatal_message: str | None, stall: str | None, expected: bool
) -> None:
    assert looks_like_out_of_memory(status, fatal_message, stall) is expected


@pytest.mark.parametrize(
    ("phase", "fatal_message", "stall", "expected"),
    [
        ("busy", None, "a device call did not end within 60 s", True),
        ("idle", None, "no answer to a ping for 60 s", False),
        ("busy", "Impacting Interactivity (0000000e:kIOGPU...ImpactingInteractivity)", None, True),
        ("busy", "Caused GPU Timeout Error (00000002:kIOGPU...CallbackErrorTimeout)", None, True),
        ("busy", "Caused GPU Hang Error (00000003:kIOGPU...CallbackErrorHang)", None, True),
        ("busy", "Insufficient Memory (00000008:kIOGPU...CallbackErrorOutOfMemory)", None, False),
        ("busy", "the device failed: [metal::malloc] Attempting to allocate", None, False),
        ("busy", None, None, False),
    ],
)
def test_a_call_that_took_too_long_is_recognised_by_a_stall_or_the_gpus_watchdog(
    phase: WorkerPhase, fatal_message: str | None, stall: str | None, expected: bool
) -> None:
    assert shows_slow_calls(phase, fatal_message, stall) is expected
