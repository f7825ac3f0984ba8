"""What ssh runs on another host: a rank, whatever its paths are made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranks.hosts_file import SSH_NAME
from service.ranks.layout import RankLayout, RankPlace
from service.ranks.ssh import (
    NO_FOLDER,
    NO_PROGRAM,
    READ_AND_RUN,
    SSH_FAILED,
    explain_exit,
    shell_line,
    ssh_command,
)

PLACE = RankPlace("mac2", ssh="mac2")
# It says what it was given: its arguments, a variable, its folder, and what is left to read.
TELLING = """#!/bin/sh
IFS= read -r rest
printf '%s\\0' "$@" "$WORD" "$(/bin/pwd)" "$rest"
"""
# Whatever a path or a variable may have; control characters are refused by the settings.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs")), min_size=1
)
NAMES = TEXTS.filter(lambda name: "/" not in name and name not in (".", "..") and len(name) < 60)


def run_line(line: bytes, rest: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """What a login shell of the host does with the command that ssh sends, and its input."""
    words = ["/bin/sh", "-c", READ_AND_RUN]
    return subprocess.run(words, input=line + rest, capture_output=True, check=False)


def layout(python: str = "", folder: str = "", word: str | None = None) -> RankLayout:
    """A layout with these settings."""
    variables = () if word is None else (("WORD", word),)
    return RankLayout((PLACE, PLACE), python=python, folder=folder, variables=variables)


@given(name=NAMES, folder=NAMES, word=TEXTS)
def test_every_path_and_variable_arrives_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, name: str, folder: str, word: str
) -> None:
    root = tmp_path_factory.mktemp("host")
    python, place = root / name, root / "at" / folder
    place.mkdir(parents=True)
    python.write_text(TELLING)
    python.chmod(0o700)
    done = run_line(shell_line(layout(str(python), str(place), word), {}), b"secret\nmore")
    assert done.stderr == b""
    *words, word_there, folder_there, rest, _ = done.stdout.decode().split("\0")
    assert words == ["-P", "-m", "worker.ranks"]
    # The shell has taken its own line alone.
    assert (word_there, folder_there, rest) == (word, str(place), "secret")
    assert sorted(root.iterdir()) == sorted([python, root / "at"])


@given(host=TEXTS)
def test_a_host_is_never_an_option_or_a_command(host: str) -> None:
    if SSH_NAME.fullmatch(host):
        assert not host.startswith("-")
        assert not set(host) & set(" ;&|<>$`\"'\\*?(){}!#~\n")


def test_a_host_is_one_word_behind_all_options() -> None:
    command = ssh_command(RankPlace("x", ssh="me@mac2"))
    assert command[-3:] == ["--", "me@mac2", READ_AND_RUN]
    assert "BatchMode=yes" in command
    assert not any("HostKey" in word for word in command)


def test_without_settings_it_is_this_python_with_this_code(tmp_path: Path) -> None:
    line = shell_line(layout(), {}).decode()
    assert f"exec {sys.executable} -P -m worker.ranks" in line
    assert "PYTHONPATH=" in line
    assert "PYTHONPATH=" not in shell_line(layout(python="/x/python"), {}).decode()
    assert f"PYTHONPATH={tmp_path}" in shell_line(layout("/x/python", str(tmp_path)), {}).decode()


def test_nothing_of_the_environment_but_libraries_is_sent() -> None:
    line = shell_line(layout(), {"LD_PRELOAD": "a.so b.so", "HF_TOKEN": "hf_x", "HOME": "/h"})
    assert b"LD_PRELOAD='a.so b.so'" in line
    assert b"hf_x" not in line
    assert b"/h;" not in line


def test_what_cannot_be_run_has_exit_codes_that_are_explained(tmp_path: Path) -> None:
    missing = layout(folder=str(tmp_path / "none"))
    status = run_line(shell_line(missing, {})).returncode
    assert status == NO_FOLDER
    assert "there is no folder" in explain_exit(status, "", missing, PLACE)

    missing = layout(python=str(tmp_path / "python"))
    status = run_line(shell_line(missing, {})).returncode
    assert status == NO_PROGRAM
    assert "(ranks_python)" in explain_exit(status, "", missing, PLACE)

    assert "cannot reach mac2" in explain_exit(SSH_FAILED, "", layout(), PLACE)
    words = "ModuleNotFoundError: No module named 'worker'"
    assert "has no mlxd" in explain_exit(1, words, layout(), PLACE)
    assert explain_exit(70, "", layout(), PLACE) == ""
