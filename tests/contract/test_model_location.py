"""The service, `mlxd doctor` and the worker find a model in the same place."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config.model_settings import ModelSettings, read_models, to_sources
from service.host.local_models import find_folder
from worker.models.model_files import find_model_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, which is the working directory: it has `tiny` and `org/both`."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "org" / "both").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def source_for_the_worker(source: str) -> str | None:
    """The source that the service sends to the worker for a configured one."""
    [sent], _ = to_sources(read_models([{"source": source}], "test"), idle_unload_s=0)
    return sent.source


@pytest.mark.parametrize(
    ("source", "folder"),
    [("tiny", "tiny"), ("./tiny", "tiny"), ("~/tiny", "tiny"), ("org/both", "org/both")],
)
def test_a_folder_is_the_same_for_all(source: str, folder: str, home: Path) -> None:
    expected = home / folder
    assert source_for_the_worker(source) == str(expected)
    assert find_model_folder(source_for_the_worker(source), download=False) == expected
    for path in (find_folder(source), find_model_folder(source, download=False)):
        assert path is not None
        assert path.absolute() == expected


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing"])
def test_a_folder_that_does_not_exist_is_not_a_hub_id(source: str) -> None:
    assert find_folder(source) == Path(source)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_model_folder(source_for_the_worker(source), download=True)


def test_a_model_of_the_hub_that_is_not_downloaded_is_the_same_for_all() -> None:
    source = "nobody/has-this"
    assert source_for_the_worker(source) == source
    assert find_folder(source) is None
    with pytest.raises(FileNotFoundError, match="mlxd pull nobody/has-this"):
        find_model_folder(source, download=False)


def test_the_built_in_model_is_the_same_for_all() -> None:
    [sent], _ = to_sources([ModelSettings()], idle_unload_s=0)
    assert sent.source is None
    assert find_folder(None) == find_model_folder(None, download=False)
