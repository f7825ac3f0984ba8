"""Code in a model's folder runs only if the model is trusted, and only code of that folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import ModelSource
from tests.worker.driver import make_config_loader, make_configure
from worker.folder.remote_code import RemoteCodeError, check_remote_code, is_inside
from worker.models.model_config import LoadError
from worker.models.pool import ModelPool

CODE = "from mlx_lm.models.llama import Model, ModelArgs\n"


@pytest.fixture
def folder(llama_path: Path, tmp_path: Path) -> Path:
    """A model whose architecture is code of its own."""
    folder = shutil.copytree(llama_path, tmp_path / "m")
    set_fields(folder / "config.json", model_type="no-such-family", model_file="own.py")
    (folder / "own.py").write_text(CODE)
    return folder


def set_fields(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def load(folder: Path, *, trusted: bool) -> ModelPool:
    source = ModelSource("m", str(folder), trust_remote_code=trusted)
    pool = ModelPool(make_configure([source]), make_config_loader())
    pool.load_all()
    return pool


def test_a_model_with_code_of_its_own_is_refused_and_told_how(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('it has run')\n")
    with pytest.raises(LoadError, match=r"own.py.*only with trust_remote_code = true"):
        load(folder, trusted=False)


def test_a_trusted_model_runs_its_code(folder: Path) -> None:
    assert load(folder, trusted=True)["m"].info.family == "no-such-family"


def test_a_tokenizer_with_code_of_its_own_is_refused_and_told_how(
    llama_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(llama_path, tmp_path / "m")
    auto_map = {"AutoTokenizer": ["own.Own", None]}
    set_fields(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map=auto_map)
    (folder / "own.py").write_text("raise SystemExit('it has run')\n")
    with pytest.raises(LoadError, match=r"tokenizer.*only with trust_remote_code = true"):
        load(folder, trusted=False)


@pytest.mark.parametrize("name", ["/tmp/x.py", "../x.py", "a/../../x.py", "", 5, ["x.py"]])
def test_code_outside_of_the_folder_never_runs(folder: Path, name: object) -> None:
    assert not is_inside(name)
    with pytest.raises(RemoteCodeError, match="outside"):
        check_remote_code(folder, {"model_file": name}, trusted=True)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("reference", ["org/other--own.Own", ["org/other--own.Own", None]])
def test_code_of_another_repository_never_runs(folder: Path, file: str, reference: object) -> None:
    set_fields(folder / file, auto_map={"AutoTokenizer": reference})
    with pytest.raises(LoadError, match="in another repository"):
        load(folder, trusted=True)


def test_a_trusted_model_of_the_hub_is_never_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot_download(id: str, **settings: Any) -> str:
        asked.append(settings)
        raise OSError("no network")

    monkeypatch.setattr("worker.models.model_files.snapshot_download", snapshot_download)
    revision = "0" * 40
    source = ModelSource("m", "org/m", revision=revision, trust_remote_code=True)
    with pytest.raises(LoadError):
        make_config_loader().load(source, download=True)
    assert [(a["local_files_only"], a["revision"]) for a in asked] == [(True, revision)]
