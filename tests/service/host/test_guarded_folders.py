"""A folder that macOS denies to launchd's jobs is refused by name, whatever leads to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config.model_settings import ModelSettings
from service.config.scalars import SettingsError
from service.config.settings import Settings
from service.host import guarded_folders
from service.host.agent_job import make_job
from service.host.diagnosis import check_agent
from service.host.guarded_folders import guard_of, used_paths
from service.host.launchd import plist_path
from tests.checks import expect_no_error

HOME = Path("/Users/me")
ICLOUD = "Library/Mobile Documents/com~apple~CloudDocs/model"
GUARDED = ["Documents", "Documents/a/b", "desktop/m", "DOWNLOADS/m", ICLOUD]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, which `~` names, with a model in Documents and one beside it."""
    for folder in ("Documents/model", "models/model"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", [*GUARDED, "Library/CloudStorage/Dropbox/model"])
@pytest.mark.parametrize("prefix", ["", "/System/Volumes/Data"])
def test_the_folders_that_macos_guards_are_known(path: str, prefix: str) -> None:
    assert guard_of(Path(f"{prefix}{HOME}/{path}"), HOME) is not None


@pytest.mark.parametrize(
    "path", ["mlxd", "Documents2/m", "Library/Caches", ".cache/huggingface", "x/Documents", ""]
)
def test_other_folders_are_not_guarded(path: str) -> None:
    assert guard_of(HOME / path, HOME) is None
    assert guard_of(Path("/opt/homebrew") / path, HOME) is None


@pytest.mark.parametrize("path", ["/Volumes/Models/m", "/volumes/usb", "/Volumes/../Volumes/a"])
def test_other_volumes_are_guarded(path: str) -> None:
    assert guard_of(Path(path), HOME) == "another volume (/Volumes)"


def test_what_a_link_leads_to_is_guarded_and_so_is_a_link_in_a_guarded_folder(home: Path) -> None:
    (home / "link").symlink_to(home / "Documents")
    (home / "Documents" / "out").symlink_to(home / "models")
    (home / "disk").symlink_to("/Volumes/Models")
    assert guard_of(home / "link" / "model", home) == f"Documents ({home / 'Documents'})"
    assert guard_of(home / "Documents" / "out", home) == f"Documents ({home / 'Documents'})"
    assert guard_of(home / "models" / ".." / "Documents", home) is not None
    assert guard_of(home / "disk", home) == "another volume (/Volumes)"
    assert guard_of(home / "models", home) is None


def test_every_path_of_the_settings_is_looked_at() -> None:
    model = ModelSettings(source="/m/one", adapter="/m/two", chat_template="/m/three")
    settings = Settings(models=(model, ModelSettings(source="org/name")), log_file="/m/log")
    paths = {
        (origin, str(path))
        for origin, path in used_paths(settings, "/m/settings", {"HF_HOME": "/m/hub"})
    }
    assert {
        ("model", "/m/one"),
        ("adapter", "/m/two"),
        ("chat_template", "/m/three"),
        ("log_file", "/m/log"),
        ("config", "/m/settings"),
        ("HF_HOME", "/m/hub"),
        ("keys_file", "~/.config/mlxd/keys.json"),
    } <= paths
    assert {"mlxd itself", "its Python environment"} <= {origin for origin, _ in paths}
    assert not {str(path) for _, path in paths} & {"", "off", "auto", "org/name", "."}


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "~/Documents/model"],
        ["--model", "mine=~/Documents/model"],
        ["--log-file", "~/Documents/log"],
        ["--prompt-cache-dir", "~/Desktop/cache"],
    ],
)
def test_an_installation_with_a_guarded_folder_is_refused_with_a_sentence(
    home: Path, flags: list[str]
) -> None:
    with pytest.raises(SettingsError, match="which macOS lets no job of launchd read: move it"):
        make_job(flags, {}, home, warn=print)
    elsewhere = [flag.replace("Documents", "models").replace("Desktop", "x") for flag in flags]
    with expect_no_error():
        make_job(elsewhere, {}, home, warn=print)


def test_a_settings_file_in_a_guarded_folder_is_refused(home: Path) -> None:
    path = home / "Documents" / "mlxd.toml"
    path.write_text("port = 8001")
    for flags, environ in (
        (["--config", str(path)], {}),
        ([], {"MLXD_CONFIG": "~/Documents/mlxd.toml"}),
    ):
        with pytest.raises(SettingsError, match=r"config: .* is in Documents"):
            make_job(flags, environ, home, warn=print)


def test_a_checkout_in_a_guarded_folder_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_folders, "CODE_FOLDER", str(home / "Documents" / "mlxd"))
    with pytest.raises(SettingsError, match=r"mlxd itself: .* is in Documents"):
        make_job([], {}, home, warn=print)


def test_doctor_repeats_it_and_it_is_a_problem_once_the_agent_is_installed(home: Path) -> None:
    settings = Settings(models=(ModelSettings(source=str(home / "Documents" / "model")),))
    [state, guarded] = check_agent(settings, None, {}, home)
    assert (state.text, guarded.is_problem) == ("is not installed", False)
    assert "which macOS lets no job of launchd read" in guarded.text
    plist_path(home).parent.mkdir(parents=True)
    plist_path(home).touch()
    [state, guarded] = check_agent(settings, None, {}, home)
    assert (state.text, guarded.is_problem) == ("is installed", True)
    assert len([*check_agent(Settings(), None, {}, home)]) == 1
