"""The available memory is read from the system, and None where it is unknown."""

from __future__ import annotations

from pathlib import Path

from service.supervision.available_memory import read_available


def test_the_available_memory_is_read_on_linux(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  100 kB\nMemFree:   10 kB\nMemAvailable:   60 kB\n")
    assert read_available(file) == 60 * 1024


def test_it_is_unknown_on_other_systems(tmp_path: Path) -> None:
    assert read_available(tmp_path / "none") is None
    (tmp_path / "other").write_text("MemTotal: 1 kB\n")
    assert read_available(tmp_path / "other") is None
