"""What creates the environment is found by running it; a Mac without wheels of MLX is told so.

The systems are programs that answer as theirs: `uname`, `sw_vers` and `sysctl`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT

NO_MAC = "mlxd needs macOS 14 or newer on Apple silicon, for which MLX has wheels. "
NO_PYTHON = "mlxd needs Python 3.11, 3.12, 3.13 or 3.14 with venv"


class System:
    """A folder of programs, which is all that PATH has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, script: str) -> None:
        """Add a program."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def make_mac(self, version: str, machine: str = "arm64", *, rosetta: bool = False) -> None:
        """Add the programs that describe a Mac."""
        self.add("uname", f"case $1 in -s) echo Darwin ;; -m) echo {machine} ;; esac")
        self.add("sw_vers", f'[ "$1" = -productVersion ] && echo {version}')
        self.add("sysctl", f"echo {int(rosetta)}")

    def add_python(self, name: str, version: str, machine: str = "arm64") -> str:
        """Add a Python of that version, for a Mac; its path."""
        numbers = ", ".join(version.split("."))
        lie = (
            f"import ensurepip, platform, sys, venv; sys.version_info = ({numbers}, 0); "
            f"sys.platform = 'darwin'; platform.machine = lambda: '{machine}'; "
            f"sys.executable = '{self.folder / name}'; exec(sys.argv[1])"
        )
        self.add(name, f'exec {sys.executable} -c "{lie}" "$2"')
        return str(self.folder / name)

    def find(self) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        return subprocess.run(
            ["/bin/sh", str(ROOT / "deploy" / "find-python")],
            env={"PATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A Linux machine without any Python."""
    made = System(tmp_path)
    made.add("uname", "echo Linux")
    return made


@pytest.mark.parametrize("version", ["14.0", "14.7.1", "15.5", "26.0"])
def test_a_python_on_a_mac_that_mlx_has_wheels_for_is_found(system: System, version: str) -> None:
    system.make_mac(version)
    path = system.add_python("python3.13", "3.13")
    found = system.find()
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{path}\n", "")


@pytest.mark.parametrize("version", ["13.7.4", "12.0", "10.16"])
def test_an_older_macos_is_refused_with_its_version(system: System, version: str) -> None:
    system.make_mac(version)
    system.add_python("python3.13", "3.13")
    found = system.find()
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == f"{NO_MAC}This is macOS {version}.\n"


def test_a_mac_without_apple_silicon_is_refused(system: System) -> None:
    system.make_mac("15.5", "x86_64")
    system.add_python("python3.13", "3.13", "x86_64")
    found = system.find()
    assert found.returncode == 1
    assert found.stderr == f"{NO_MAC}This Mac has a processor of the kind x86_64.\n"


def test_a_shell_under_rosetta_is_refused(system: System) -> None:
    system.make_mac("15.5", "x86_64", rosetta=True)
    found = system.find()
    assert found.returncode == 1
    assert (
        found.stderr == f"{NO_MAC}This shell runs under Rosetta: open a terminal that does not.\n"
    )


@pytest.mark.parametrize(
    ("version", "machine"), [("3.10", "arm64"), ("3.15", "arm64"), ("3.13", "x86_64")]
)
def test_a_python_that_mlxd_cannot_use_is_passed_over(
    system: System, version: str, machine: str
) -> None:
    system.make_mac("15.5")
    system.add_python("python3.13", version, machine)
    refused = system.find()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(NO_PYTHON)
    system.add("python3.12", "exit 127")
    path = system.add_python("python3.14", "3.14")
    assert system.find().stdout == f"{path}\n"


def test_uv_is_found_where_there_is_no_python(system: System) -> None:
    system.make_mac("15.5")
    system.add("uv", "exit 0")
    assert system.find().stdout == "uv\n"


def test_elsewhere_no_version_of_macos_is_asked_for(system: System) -> None:
    system.add("python3", f'exec {sys.executable} "$@"')
    found = system.find()
    assert (found.returncode, found.stderr) == (0, "")
