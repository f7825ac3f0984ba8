"""What mlxd needs of macOS is checked by its commands; elsewhere all of it is skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from protocol.selftest import Figure, is_listed
from service.selftest import system
from service.selftest.system import check_system, count_panics

S_PER_DAY = 86400.0


def waiting(pid: int) -> tuple[str, ...]:
    """A command that runs until it is ended, in place of caffeinate."""
    return (sys.executable, "-c", f"import threading; threading.Event().wait()  # beside {pid}")


def check(run: Callable[..., str | None], panics: Path) -> dict[str, Figure]:
    figures = list(check_system({}, run, on_macos=True, panics=panics, prevent_sleep=waiting))
    assert [figure for figure in figures if not is_listed(figure)] == []
    return {figure.name: figure for figure in figures}


def test_elsewhere_everything_is_skipped() -> None:
    figures = list(check_system({}, lambda *words: "", on_macos=False))
    assert {(figure.verdict, figure.note) for figure in figures} == {("skipped", "not macOS")}
    assert len(figures) == 5


def test_commands_that_fail_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "ASSERTION_S", 0.0)
    figures = check(lambda *words: None, tmp_path)
    assert {name for name, figure in figures.items() if figure.verdict == "failed"} == {
        "plist",
        "launchd",
        "assertion",
    }


def test_commands_that_confirm_are_no_failures(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        if words[1:] == ("-g", "assertions"):
            # pmset names every process; the tested one is among the children of this process.
            pids = [child.pid for child in psutil.Process().children()]
            return "".join(f"   pid {pid}(caffeinate): [0x1] 00:00:01\n" for pid in pids)
        return ""

    figures = check(run, tmp_path)
    assert {figure.verdict for figure in figures.values()} == {"ok"}


def test_recent_panics_are_counted_and_those_of_the_gpu_fail(tmp_path: Path) -> None:
    now_s = 1_000 * S_PER_DAY
    for name, text, days in (
        ("a.panic", b"panic(cpu 1): IOGPUFamily completeMemory() underflow", 2),
        ("b.panic", b"panic(cpu 0): something else", 29),
        ("c.panic", b"panic(cpu 0): IOGPU", 31),
        ("d.ips", b"IOGPU", 1),
    ):
        path = tmp_path / name
        path.write_bytes(text)
        os.utime(path, (now_s - days * S_PER_DAY,) * 2)
    figures = {figure.name: figure for figure in count_panics(tmp_path, now_s)}
    assert (figures["panics"].value, figures["panics"].verdict) == (2, "")
    assert (figures["gpu_panics"].value, figures["gpu_panics"].verdict) == (1, "failed")


def test_reports_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    verdicts = {figure.verdict for figure in count_panics(tmp_path / "none", 0.0)}
    assert verdicts == {"skipped"}
