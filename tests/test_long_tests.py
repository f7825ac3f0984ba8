"""A file without anything to run is not imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.long_tests import leaves_out_whole_file


@pytest.mark.parametrize(
    ("marks", "left_out"),
    [
        ("not long", True),
        ("not service and not long", True),
        ("long", False),
        ("long or not long", False),
        ("", False),
    ],
)
def test_a_file_of_long_tests_is_left_out_where_they_are(
    tmp_path: Path, marks: str, left_out: bool
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("import pytest\n\npytestmark = pytest.mark.long\n")
    assert leaves_out_whole_file(file, marks) is left_out


def test_a_file_of_which_only_some_tests_are_long_is_not(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("import pytest\n\n@pytest.mark.long\ndef test_x(): ...\n")
    assert not leaves_out_whole_file(file, "not long")
