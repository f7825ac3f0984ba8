"""Files all of whose tests take long: without them they are not even imported."""

from __future__ import annotations

from pathlib import Path

from tests.mark_expressions import leaves_out

MARK = "pytestmark = pytest.mark.long"


def leaves_out_whole_file(path: Path, marks: str) -> bool:
    """Whether `-m MARKS` leaves out every test of a file, by the mark of its module."""
    is_module = leaves_out(marks, "long") and path.suffix == ".py"
    return is_module and MARK in path.read_text().splitlines()
