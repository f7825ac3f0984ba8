from __future__ import annotations

from pathlib import Path

import pytest

from protocol.model_location import BuiltIn, Folder, HubModel, ModelLocation, location_of


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the folders `tiny` and `org/both`, and a home folder."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "org" / "both").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")


@pytest.mark.parametrize(
    ("source", "location"),
    [
        (None, BuiltIn()),
        ("/models/tiny", Folder(Path("/models/tiny"))),
        ("~/tiny", Folder(Path("/home/someone/tiny"))),
        ("./tiny", Folder(Path("tiny"))),
        ("./missing", Folder(Path("missing"))),
        ("../missing", Folder(Path("../missing"))),
        ("tiny", Folder(Path("tiny"))),
        ("missing", HubModel("missing")),
        ("org/name", HubModel("org/name")),
        ("org/both", Folder(Path("org/both"))),
    ],
)
def test_a_source_names_the_built_in_model_a_folder_or_a_hub_id(
    source: str | None, location: ModelLocation
) -> None:
    assert location_of(source) == location


def test_the_home_folder_of_an_unknown_user_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        location_of("~no-such-user-here/tiny")
