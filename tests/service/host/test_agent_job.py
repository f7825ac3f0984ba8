from __future__ import annotations

from pathlib import Path

import pytest

from service.config.scalars import SettingsError
from service.host.agent_job import kept_by_upgrades, make_job, refuse_relative_paths
from tests.checks import expect_no_error


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file beside a model's folder, in the working directory."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlxd.toml"


@pytest.mark.parametrize("source", ["tiny", "./tiny", "./missing", "../missing"])
def test_a_relative_folder_of_a_model_is_refused(source: str, file: Path) -> None:
    file.write_text(f'[[models]]\nsource = "{source}"')
    with pytest.raises(SettingsError, match=f"{source} is relative"):
        refuse_relative_paths(file)


@pytest.mark.parametrize("source", ["/models/tiny", "~/tiny", "org/name"])
def test_an_absolute_folder_and_a_hub_id_are_accepted(source: str, file: Path) -> None:
    file.write_text(
        f'tls_cert = "~/c.pem"\n[[models]]\nid = "demo"\n[[models]]\nsource = "{source}"'
    )
    with expect_no_error():
        refuse_relative_paths(file)


def test_a_relative_path_of_a_setting_is_refused(file: Path) -> None:
    file.write_text('tls_cert = "c.pem"')
    with pytest.raises(SettingsError, match=r"c\.pem is relative"):
        refuse_relative_paths(file)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (
            "/opt/homebrew/Cellar/mlxd/0.1.0/libexec/bin/python",
            "/opt/homebrew/opt/mlxd/libexec/bin/python",
        ),
        ("/opt/homebrew/Cellar/mlxd/0.1.0", "/opt/homebrew/opt/mlxd"),
        ("/Users/me/.local/share/uv/tools/mlxd/bin/python", None),
        ("/Users/me/mlxd/.venv/bin/python", None),
    ],
)
def test_the_job_has_no_path_that_an_upgrade_removes(path: str, kept: str | None) -> None:
    assert kept_by_upgrades(path) == (kept or path)


def test_a_home_with_a_control_character_is_refused() -> None:
    with pytest.raises(SettingsError, match="HOME: "):
        make_job([], {}, Path("/home/a\x1bb"), warn=print)
