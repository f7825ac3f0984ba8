"""The verdicts on hostile clients: gaps, rates, first tokens, limits and the table."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.attack.kinds import KINDS
from tests.load.attack.wire import READY
from tests.load.bystanders import Seen, take
from tests.load.hostile import MODELS, SHORT_KINDS, complete, limits_of, table_of, words_of
from tests.load.verdicts import (
    HEADINGS,
    Limits,
    Row,
    Window,
    count_errors,
    count_outcomes,
    counted,
    first_tokens,
    longest_gap,
    markdown,
    middle,
    rate_of,
    unanswered,
)
from tests.waiting import HANG_S

QUIET, LOUD = Window(0.0, 10.0), Window(10.0, 20.0)
LIMITS = Limits(worker_bytes=2_000_000_000)
RIGHT = Row(
    model="built-in",
    kind="10,000 tools",
    pings=20,
    first_p50_s=0.05,
    first_max_s=0.9,
    unanswered=0,
    quiet_first_max_s=0.1,
    quiet_gap_s=0.03,
    gap_s=0.2,
    rate=0.7,
    service_bytes=120_000_000,
    worker_bytes=600_000_000,
    restarts=0,
    outcomes={"400": 3},
)


def stream(*text_at: float, ended_at: float | None = None) -> Seen:
    """A stream with one character at each of these times."""
    return Seen(0.0, list(text_at), [1] * len(text_at), ended_at)


def test_a_gap_counts_where_it_touches_the_window() -> None:
    before_and_after = stream(1.0, 9.0, 11.0, 11.5, 19.0, 25.0, ended_at=25.0)
    assert longest_gap([before_and_after], LOUD) == 7.5
    assert longest_gap([stream(1.0, 9.0, ended_at=9.0)], LOUD) == 0.0


def test_an_answer_that_goes_on_without_text_has_a_gap_to_the_end_of_the_window() -> None:
    assert longest_gap([stream(9.0, 11.0)], LOUD) == 9.0
    assert longest_gap([stream(9.0, 11.0, ended_at=11.0)], LOUD) == 2.0
    assert longest_gap([stream(1.0)], LOUD) == 19.0


def test_the_time_between_two_answers_is_no_gap() -> None:
    assert longest_gap([stream(11.0, ended_at=11.0), stream(18.0, ended_at=18.0)], LOUD) == 0.0


@given(st.lists(st.floats(0, 30), min_size=1).map(sorted))
def test_no_gap_is_longer_than_from_the_first_text_to_the_end(text_at: list[float]) -> None:
    gap = longest_gap([stream(*text_at)], LOUD)
    assert 0 <= gap <= max(text_at[-1], LOUD.end) - text_at[0]


def test_a_rate_is_that_of_the_characters_relative_to_the_undisturbed() -> None:
    streams = [stream(1.0, 2.0, 3.0, 4.0, 12.0), Seen(0.0, [13.0], [2])]
    assert rate_of(streams, QUIET, LOUD) == pytest.approx(0.75)
    assert rate_of([stream(12.0)], QUIET, LOUD) == 0.0


def test_a_ping_without_an_answer_counts_with_the_time_that_it_waits() -> None:
    pings = [Seen(11.0, [11.5], [1], 11.6), Seen(12.0), Seen(25.0), Seen(13.0, error="503")]
    assert first_tokens(pings, LOUD, seen_until=40.0) == [0.5, 28.0]
    assert unanswered([*pings, Seen(14.0, ended_at=15.0)], LOUD) == 2
    assert count_errors(pings, LOUD) == {"503": 1}
    assert middle([]) == 0


def test_an_answer_of_one_token_without_text_has_its_first_token_at_its_end() -> None:
    seen = Seen(0.0)
    take({"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}, seen)
    assert seen.text_at == []
    take({"choices": [{"delta": {}, "finish_reason": "length"}]}, seen)
    assert seen.characters == [0]
    take({"error": {"code": "overloaded"}}, seen)
    assert seen.error == "overloaded"


def test_the_clients_alone_are_told_beside_the_row_where_they_are_measured() -> None:
    measured = replace(RIGHT, floor_gap_s=0.3, floor_rate=0.6)
    assert "| 200 ms (30; 300) | 0.70 (0.60) |" in markdown([measured], LIMITS)
    assert "| 200 ms (30) | 0.70 |" in markdown([RIGHT], LIMITS)


def test_a_sink_answers_once_a_declared_body_has_arrived() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.load.attack.sink"], stdout=subprocess.PIPE
    ) as sink:
        assert sink.stdout is not None
        address = ("127.0.0.1", int(sink.stdout.readline()))
        with socket.create_connection(address, HANG_S) as client:
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 400000\r\n\r\n" + b"x" * 399_999)
            client.sendall(b"x")
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        sink.terminate()


def test_a_hostile_client_has_the_priority_that_it_is_given() -> None:
    command = [sys.executable, "-m", "tests.load.attack", "malformed", "--wait", "--nice", "19"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline().decode() == f"{READY}\n"
            assert os.getpriority(os.PRIO_PROCESS, client.pid) == 19
        finally:
            client.terminate()


def test_the_priority_of_the_clients_is_told_before_the_table() -> None:
    written = table_of([RIGHT], argparse.Namespace(clients_nice=7), LIMITS)
    assert written.startswith("The hostile clients run at a niceness of 7.\n\n| model |")


WRONG = {
    "nothing was sent": replace(RIGHT, outcomes={}),
    "no pings": replace(RIGHT, pings=0),
    "first token": replace(RIGHT, first_max_s=1.1),
    "pings failed": replace(RIGHT, ping_errors={"503": 1}),
    "pings unanswered": replace(RIGHT, unanswered=1),
    "gap": replace(RIGHT, gap_s=0.25),
    "rate": replace(RIGHT, rate=0.49),
    "streams failed": replace(RIGHT, stream_errors={"cut": 1}),
    "memory of the service": replace(RIGHT, service_bytes=400_000_000),
    "memory of the worker": replace(RIGHT, worker_bytes=2_000_000_001),
    "restarts": replace(RIGHT, restarts=1),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_limit_makes_a_row_wrong(what: str) -> None:
    assert RIGHT.faults(LIMITS) == []
    assert WRONG[what].faults(LIMITS) == [what]


def test_in_the_short_form_slowness_is_right_and_a_hang_is_wrong() -> None:
    limits = limits_of(argparse.Namespace(short=True, memory_limit_bytes=LIMITS.worker_bytes))
    assert replace(RIGHT, first_max_s=29.0, gap_s=5.0, rate=0.1).faults(limits) == []
    assert replace(RIGHT, first_max_s=31.0).faults(limits) == ["first token"]
    assert replace(RIGHT, restarts=1).faults(limits) == ["restarts"]


def test_the_table_has_a_cell_for_each_heading_and_says_what_is_wrong() -> None:
    lines = markdown([RIGHT, WRONG["pings failed"]], LIMITS).splitlines()
    assert {line.count(" | ") for line in lines} == {len(HEADINGS) - 1}
    assert lines[2] == (
        "| built-in | 10,000 tools | 3 x 400 | 50 / 900 ms (100) | 200 ms (30) | 0.70 "
        "| 120 / 600 MB | 0 | yes |"
    )
    assert lines[3].endswith("| no: pings failed, pings got 1 x 503 |")
    assert counted({"400": 1, "200": 1000}) == "1,000 x 200, 1 x 400"


def test_each_request_that_was_sent_has_an_outcome() -> None:
    assert count_outcomes(["sent", "400", "sent", "sent"]) == {"400": 1, "no answer": 2}
    assert count_outcomes(["sent", "503"]) == {"503": 1}
    assert count_outcomes([]) == {}


def test_only_kinds_and_models_that_exist_can_be_chosen() -> None:
    assert words_of(KINDS)("n128,tools") == ["n128", "tools"]
    with pytest.raises(argparse.ArgumentTypeError, match="oops"):
        words_of(MODELS)("large,oops")
    assert set(SHORT_KINDS) <= set(KINDS)


def test_the_short_form_has_fewer_kinds_and_takes_less_time() -> None:
    chosen = {"kinds": None, "seconds": None, "models": list(MODELS), "quiet_seconds": 5.0}
    short, full = (argparse.Namespace(short=short, **chosen) for short in (True, False))
    complete(short)
    complete(full)
    assert (full.kinds, full.models) == (list(KINDS), list(MODELS))
    assert (short.kinds, short.models) == (SHORT_KINDS, ["built-in"])
    assert short.seconds < full.seconds
