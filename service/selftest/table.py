"""The table of a selftest, printed section by section as the results come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

from protocol.selftest import Figure, SectionEnded, SectionStarted, SelftestMessage, Verdict

MARKS: dict[Verdict, str] = {
    "ok": "ok",
    "": "  ",
    "near tie": "~ ",
    "failed": "!!",
    "skipped": "--",
}
CLEAR_LINE = "\r\x1b[K"


class Table:
    """Prints the sections; on a terminal also what is measured just now."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._section: list[Figure] = []
        self.figures: list[Figure] = []

    def add(self, message: SelftestMessage) -> None:
        """Print a section's name when it starts, and its figures when it ends."""
        match message:
            case SectionStarted(section, budget_s):
                self._section = []
                self._write(f"{section} (about {budget_s:g} s)\n")
            case Figure():
                self._section.append(message)
                self.figures.append(message)
                self._show_progress(message)
            case SectionEnded():
                self._show_progress(None)
                self._write("".join(f"  {line}\n" for line in lines_of(self._section)))

    def _show_progress(self, figure: Figure | None) -> None:
        if self._output.isatty():
            words = f"  … {figure.name} {figure.at or ''}" if figure is not None else ""
            self._write(f"{CLEAR_LINE}{words}")

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def lines_of(figures: Sequence[Figure]) -> Iterator[str]:
    """One line for each figure; those that differ only in what they were measured at share one."""
    groups: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        groups.setdefault(row_of(figure), []).append(figure)
    for same in groups.values():
        first = same[0]
        values = "  ".join(describe(figure) for figure in same)
        name = f"{first.model} {first.name}".strip()
        note = f"{first.verdict}: {first.note}" if first.verdict == "near tie" else first.note
        parts = [f"{MARKS[first.verdict]}  {name:24}", values, first.unit, f" {note}".rstrip()]
        yield " ".join(filter(None, parts)).rstrip()


def row_of(figure: Figure) -> tuple[str, ...]:
    """What the figures of one line have in common."""
    return (figure.model, figure.name, figure.verdict, figure.unit, figure.note)


def describe(figure: Figure) -> str:
    """What it was measured at, and the value."""
    text = "" if figure.value is None else str(figure.value)
    if isinstance(figure.value, bool):
        text = "yes" if figure.value else "no"
    return f"{figure.at}: {text or '-'}" if figure.at is not None else text
