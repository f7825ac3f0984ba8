"""The program runs every section within its time, and goes on after one that fails."""

from __future__ import annotations

import pytest

from protocol.selftest import (
    BUILT_IN,
    DEVICE_BUDGETS,
    FAILURE,
    GIVEN,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
    is_listed,
)
from worker.selftest import program
from worker.selftest.measurement import Section


def run(*sections: str, source: str | None = None) -> list[SelftestMessage]:
    messages: list[SelftestMessage] = []
    request = SelftestRequest(budgets_s=dict.fromkeys(sections, 0.0), source=source)
    program.run_sections(request, messages.append)
    return messages


def figures_of(messages: list[SelftestMessage]) -> list[Figure]:
    return [message for message in messages if isinstance(message, Figure)]


def test_every_section_runs_without_time_and_reports_only_listed_figures() -> None:
    messages = run(*DEVICE_BUDGETS)
    started = [message.section for message in messages if isinstance(message, SectionStarted)]
    ended = [message.section for message in messages if isinstance(message, SectionEnded)]
    assert started == ended == list(DEVICE_BUDGETS)
    figures = figures_of(messages)
    assert {figure.section for figure in figures} == set(DEVICE_BUDGETS)
    assert [figure for figure in figures if not is_listed(figure)] == []
    assert [figure for figure in figures if figure.name == FAILURE] == []


def test_a_section_that_raises_fails_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(section: Section) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(program.ON_DEVICE, "kernels", fail)
    figures = figures_of(run("kernels", "memory"))
    [failure] = [figure for figure in figures if figure.verdict == "failed"]
    assert (failure.section, failure.name) == ("kernels", FAILURE)
    assert failure.note == "RuntimeError: no such kernel"
    assert figures[-1].section == "memory"


def test_a_model_that_cannot_be_loaded_fails_beside_the_built_in_one(tmp_path: object) -> None:
    figures = figures_of(run("device", source=str(tmp_path)))
    failed = {figure.model for figure in figures if figure.verdict == "failed"}
    assert failed == {GIVEN}
    assert {figure.model for figure in figures} == {"", BUILT_IN, GIVEN}
