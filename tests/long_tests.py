"""Files all of whose tests take long: without them they are not even imported."""

from __future__ import annotations

from pathlib import Path

LEFT_OUT = "not long"
MARK = "pytestmark = pytest.mark.long"


def leaves_out_whole_file(path: Path, marks: str) -> bool:
    """Whether `-m MARKS` leaves out every test of a file, by the mark of its module."""
    chosen = marks.split(" and ")
    return LEFT_OUT in chosen and path.suffix == ".py" and MARK in path.read_text().splitlines()
