"""What pytest's `-m` leaves out."""

from __future__ import annotations


def leaves_out(marks: str, mark: str) -> bool:
    """Whether `-m MARKS` leaves out all tests with this mark."""
    return f"not {mark}" in marks.split(" and ")
