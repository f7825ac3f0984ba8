"""A real service, with a fake worker, continues its answer after its worker is killed."""

from __future__ import annotations

import os
import sys

from protocol.selftest import FAILURE, Figure, is_listed
from service.selftest.resume import check_resume

# Its worker waits to be killed: no machine, however busy, is too late.
HELD_SERVICE = (
    *(sys.executable, "-m", "tests.fakes.service", "serve"),
    *("--worker", "tests.fakes.held_worker", "--stall-s", "600"),
)


def test_the_answer_is_the_same_after_the_kill() -> None:
    figures = {figure.name: figure for figure in check_resume(os.environ, HELD_SERVICE)}
    assert FAILURE not in figures, figures[FAILURE].note
    assert [figure for figure in figures.values() if not is_listed(figure)] == []
    assert figures["text"].verdict == "ok"
    for name in ("start_ms", "first_token_ms", "stop_ms"):
        assert value_of(figures[name]) > 0


def test_a_service_that_does_not_start_fails() -> None:
    command = (sys.executable, "-c", "raise SystemExit(7)")
    [figure] = check_resume(os.environ, command)
    assert (figure.name, figure.verdict) == (FAILURE, "failed")
    assert "exit code 7" in figure.note


def value_of(figure: Figure) -> float:
    assert isinstance(figure.value, float)
    return figure.value
