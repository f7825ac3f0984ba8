"""A report says nothing of whose machine it is of, and has only what is listed."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.selftest import FAILURE, FIGURES, Figure
from service.selftest.report import (
    conceal_text,
    default_path,
    make_report,
    names_of_machine,
    write_report,
)

NAMES = ["marias-mac.local", "marias-mac", "/Users/maria", "maria"]
WORDS = st.text(string.ascii_lowercase + "-_.", min_size=3, max_size=12)


def texts_of(value: Any) -> Iterator[str]:
    """All texts of a JSON value, keys too."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_of(part)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(
    "text",
    [
        "LoadError: /Users/maria/models/secret-model: no config.json",
        "cannot open '/opt/private/x.bin' on Marias-Mac.local",
        "~/Documents/models is guarded",
        "file:///Users/maria/a%20b",
        "user maria, host MARIAS-MAC",
    ],
)
def test_a_report_has_no_path_host_user_or_home(text: str, tmp_path: Path) -> None:
    figures = [
        Figure(section="memory", name=FAILURE, verdict="failed", note=text),
        Figure(section="machine", name="system", value=text),
    ]
    path = tmp_path / "logs" / "report.json"
    write_report(make_report(figures, quick=False, names=NAMES), path)
    for found in texts_of(json.loads(path.read_bytes())):
        for part in ("maria", "/Users", "/opt", "private", "secret-model", "Documents"):
            assert part not in found.lower()


@given(st.lists(WORDS, min_size=1, max_size=4), WORDS, st.text(max_size=20))
def test_no_path_and_no_name_is_left_of_any_text(parts: list[str], name: str, around: str) -> None:
    path = "/" + "/".join(parts)
    concealed = conceal_text(f"{around} {path}: of {name}@ _{name}-", [name, path])
    assert path not in concealed
    assert f" {name}" not in concealed.removeprefix(around)
    assert f"_{name}-" not in concealed


def test_what_is_no_path_stays() -> None:
    for text in ("8 of 16384 tokens", "46.0 GFLOP/s", "macosx_26_0_arm64", "and/or", "Mac16,8"):
        assert conceal_text(text, NAMES) == text


def test_a_short_name_is_removed_only_as_a_word() -> None:
    concealed = conceal_text("macOS 26.2 of mac on Mac16,8, mac-models", ["mac"])
    assert concealed == "macOS 26.2 of … on Mac16,8, …-models"


def test_the_names_of_this_machine_are_known() -> None:
    assert str(Path.home()) in names_of_machine()


def test_only_listed_figures_are_reported_and_failures_counted() -> None:
    figures = [
        Figure(section=section, name=name, value=1, verdict="failed")
        for section, names in FIGURES.items()
        for name in names
    ]
    unlisted = [Figure(section="memory", name="serial", value="C02XYZ")]
    report = make_report([*figures, *unlisted], quick=True, names=NAMES)
    assert report.figures == figures
    assert report.failed == len(figures)


def test_a_report_is_written_beside_the_logs_or_into_the_folder_of_states() -> None:
    home = Path("/home/x")
    on_macos = default_path({}, home, on_macos=True)
    assert on_macos.parent == home / "Library" / "Logs" / "mlxd"
    assert on_macos.name.startswith("selftest-20")
    assert default_path({}, home, on_macos=False).parent == home / ".local" / "state" / "mlxd"
    state = default_path({"XDG_STATE_HOME": "/state"}, home, on_macos=False)
    assert state.parent == Path("/state/mlxd")
