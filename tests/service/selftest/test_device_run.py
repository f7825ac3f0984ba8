"""Every section starts and ends, whatever happens to the program that runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from protocol.selftest import (
    FAILURE,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
)
from service.selftest.device_run import run_device

# It fails in the section `b` as its argument says, once for each program.
PROGRAM = """
import json, os, signal, sys, threading
fault, output = sys.argv[1], os.fdopen(int(sys.argv[2]), "w")
def write(**message):
    print(json.dumps(message), file=output, flush=True)
print("a library prints")
for name, seconds in json.load(sys.stdin)["budgets_s"].items():
    write(type="SectionStarted", section=name, budget_s=seconds)
    if name == "b" and fault == "abort":
        os.abort()
    if name == "b" and fault == "exit":
        sys.exit(3)
    if name == "b" and fault == "silence":
        threading.Event().wait()
    write(type="Figure", section=name, name="value", value=1)
    write(type="SectionEnded", section=name, seconds=0.0)
"""
REQUEST = SelftestRequest(budgets_s={"a": 1.0, "b": 2.0, "c": 3.0})


def run(fault: str, tmp_path: Path, silence_s: float = 60.0) -> list[SelftestMessage]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, "utf-8")
    command = [sys.executable, str(path), fault]
    return list(run_device(REQUEST, os.environ, command=command, silence_s=silence_s))


def check_sections(messages: list[SelftestMessage]) -> None:
    """Each section starts and ends once, in order."""
    for kind in (SectionStarted, SectionEnded):
        names = [message.section for message in messages if isinstance(message, kind)]
        assert names == ["a", "b", "c"]


def test_the_figures_of_all_sections_arrive(tmp_path: Path) -> None:
    messages = run("none", tmp_path)
    check_sections(messages)
    figures = [message for message in messages if isinstance(message, Figure)]
    assert [(figure.section, figure.value) for figure in figures] == [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("abort", "the program was ended by signal 6"),
        ("exit", "the program ended with exit code 3"),
        ("silence", "the program said nothing for 0.5 seconds"),
    ],
)
def test_the_sections_after_one_that_ends_the_program_run_in_another(
    fault: str, note: str, tmp_path: Path
) -> None:
    messages = run(fault, tmp_path, silence_s=0.5 if fault == "silence" else 60.0)
    check_sections(messages)
    figures = [message for message in messages if isinstance(message, Figure)]
    assert [(figure.section, figure.name) for figure in figures] == [
        ("a", "value"),
        ("b", FAILURE),
        ("c", "value"),
    ]
    assert (figures[1].verdict, figures[1].note) == ("failed", note)


def test_a_program_that_never_begins_fails_every_section() -> None:
    command = [sys.executable, "-c", "raise SystemExit(9)"]
    messages = list(run_device(REQUEST, os.environ, command=command))
    check_sections(messages)
    figures = [message for message in messages if isinstance(message, Figure)]
    assert [figure.verdict for figure in figures] == ["failed"] * 3
