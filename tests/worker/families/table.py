"""The table of families in worker/README.md, between two markers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.sources import ROOT
from tests.worker.families.comparison import CHECKS

DOCUMENT = ROOT / "worker/README.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
QUANTISED = "4 bits, eight at once"
COLUMNS: tuple[str, ...] = (*CHECKS, QUANTISED)

# The outcomes of a family's checks by their columns.
Results = Mapping[str, Mapping[str, str]]


def render(results: Results, unavailable: Mapping[str, str]) -> str:
    """The table; families with the same outcomes share a row, those of most families first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for family, outcomes in results.items():
        groups.setdefault(tuple(outcomes[column] for column in COLUMNS), []).append(family)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[1]))
    lines = [row(["family", *COLUMNS]), row(["---"] * (1 + len(COLUMNS)))]
    lines += [row([", ".join(sorted(names)), *outcomes]) for outcomes, names in ordered]
    right = sum(set(outcomes) == {"right"} and len(names) for outcomes, names in groups.items())
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(unavailable.items()))
    count = f"{right} of {len(results)} families are right in all checks. Not run here: {reasons}."
    return "\n".join([*lines, "", textwrap.fill(count, 100)])


def row(cells: Sequence[str]) -> str:
    """One line of the table."""
    return f"| {' | '.join(cells)} |"


def read(document: Path = DOCUMENT) -> str:
    """The table in the document."""
    text = document.read_text("utf-8")
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write(table: str, document: Path = DOCUMENT) -> None:
    """Replace the table in the document."""
    before, _, rest = document.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")
