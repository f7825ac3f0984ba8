"""The available memory is read from the system, and None where it is unknown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from service.supervision import available_memory
from service.supervision.available_memory import read_available, read_meminfo, read_vm_stat

# Of a Mac with Apple silicon, and of an older one whose lines have other widths.
VM_STAT_16_KIB = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              123456.
Pages active:                            789012.
Pages inactive:                          345678.
Pages speculative:                        12345.
Pages throttled:                              0.
Pages wired down:                        234567.
Pages purgeable:                          56789.
"Translation faults":                  98765432.
Pages copy-on-write:                     345678.
Pages zero filled:                      8765432.
Pages reactivated:                       234567.
Pages purged:                             45678.
File-backed pages:                       456789.
Anonymous pages:                         678901.
Pages stored in compressor:              123456.
Pages occupied by compressor:             45678.
Decompressions:                            5678.
Compressions:                             12345.
Pageins:                                  56789.
Pageouts:                                  1234.
Swapins:                                    123.
Swapouts:                                    45.
"""
AVAILABLE_16_KIB = 16384 * (123456 + 456789 + 56789)


def test_the_available_memory_is_read_on_linux(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  100 kB\nMemFree:   10 kB\nMemAvailable:   60 kB\n")
    assert read_meminfo(file) == 60 * 1024


def test_it_is_unknown_on_other_systems(tmp_path: Path) -> None:
    assert read_meminfo(tmp_path / "none") is None
    (tmp_path / "other").write_text("MemTotal: 1 kB\n")
    assert read_meminfo(tmp_path / "other") is None


def test_on_macos_free_purgeable_and_file_backed_pages_are_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(available_memory, "run_vm_stat", lambda: VM_STAT_16_KIB)
    assert read_available("darwin") == AVAILABLE_16_KIB
    assert read_vm_stat(lambda: VM_STAT_16_KIB.replace("16384", "4096")) == AVAILABLE_16_KIB // 4


@pytest.mark.parametrize(
    "output",
    ["", VM_STAT_16_KIB.replace("Pages purgeable", "Other"), VM_STAT_16_KIB.partition("\n")[2]],
)
def test_an_output_of_another_form_is_unknown(output: str) -> None:
    assert read_vm_stat(lambda: output) is None


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("vm_stat", 2.0)])
def test_a_command_that_fails_is_unknown(error: Exception) -> None:
    def fail() -> str:
        raise error

    assert read_vm_stat(fail) is None
