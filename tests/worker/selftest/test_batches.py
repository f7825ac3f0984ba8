"""What changes of a batch cost is measured as far as there is time."""

from __future__ import annotations

import itertools

import pytest

from protocol.selftest import is_listed
from tests.worker.selftest.recorder import Recorder
from worker.selftest.measurement import Section
from worker.selftest.sections import batches
from worker.selftest.subject import Subject

LONG_S = 1e9


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ROWS", 6)
    monkeypatch.setattr(batches, "JOINING_ID", 6)
    monkeypatch.setattr(batches, "PROMPT_TOKENS", 8)


def test_each_change_is_measured_where_there_is_time(subject: Subject) -> None:
    recorder = Recorder()
    batches.measure(recorder.section("batches", LONG_S), subject)
    names = [figure.name for figure in recorder.figures]
    assert names == ["round_trip_ms", *batches.NAMES]
    assert all(map(is_listed, recorder.figures))
    assert {figure.verdict for figure in recorder.figures} == {""}


@pytest.mark.parametrize("ticks", [1, 30, 60])
def test_what_there_is_no_time_for_is_skipped(ticks: int, subject: Subject) -> None:
    clock = itertools.count()
    recorder = Recorder()
    section = Section("batches", ticks, recorder.figures.append, clock=lambda: float(next(clock)))
    batches.measure(section, subject)
    names = [figure.name for figure in recorder.figures]
    assert names == ["round_trip_ms", *batches.NAMES]
    assert recorder.figures[-1].verdict == "skipped"
