"""The table groups what was measured at several places, and names what failed."""

from __future__ import annotations

import io

from protocol.selftest import BUILT_IN, Figure, SectionEnded, SectionStarted
from service.selftest.table import Table, lines_of


def test_figures_that_differ_in_their_place_share_a_line() -> None:
    figures = [
        Figure(section="passes", name="pass_ms", at=at, value=at / 2, unit="ms", model=BUILT_IN)
        for at in (1, 2, 4)
    ]
    assert list(lines_of(figures)) == ["    built-in pass_ms         1: 0.5  2: 1.0  4: 2.0 ms"]


def test_failures_near_ties_and_skipped_figures_are_marked_with_their_notes() -> None:
    figures = [
        Figure(section="s", name="a", value=3, verdict="failed", note="1 of 4 differ"),
        Figure(section="s", name="b", value=3, verdict="near tie", note="gap 0.01"),
        Figure(section="s", name="c", verdict="skipped", note="not macOS"),
        Figure(section="s", name="d", value=True, verdict="ok"),
    ]
    failed, tie, skipped, right = lines_of(figures)
    assert (failed[:2], failed[-13:]) == ("!!", "1 of 4 differ")
    assert tie.endswith("near tie: gap 0.01")
    assert (skipped[:2], skipped[-9:]) == ("--", "not macOS")
    assert (right[:2], right[-3:]) == ("ok", "yes")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_measured_just_now_and_a_file_does_not() -> None:
    for output, shown in ((Terminal(), True), (io.StringIO(), False)):
        table = Table(output)
        table.add(SectionStarted("memory", 4.0))
        assert output.getvalue() == "memory (about 4 s)\n"
        table.add(Figure(section="memory", name="counted_share", at=16, value=1.0))
        assert ("… counted_share 16" in output.getvalue()) is shown
        table.add(SectionEnded("memory", 1.0))
        assert output.getvalue().endswith("counted_share            16: 1.0\n")
