from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.host.local_models import look_at


def test_whole_models_have_nothing_wrong_and_a_size(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        found = look_at(str(path))
        assert (found.folder, found.wrong) == (path, [])
        assert found.weight_bytes == (path / "model.safetensors").stat().st_size


def test_the_built_in_model_is_whole() -> None:
    found = look_at(None)
    assert found.wrong == []
    assert found.weight_bytes > 0


@pytest.mark.parametrize("source", ["nobody/has-this", "nobody/has this", "a/b/c"])
def test_what_is_no_folder_is_of_the_hub_or_nothing(source: str) -> None:
    found = look_at(source)
    assert found.folder is None or found.wrong


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def spoil(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\x10" + bytes(7) + b"{" * 16)


def lose_part(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def lose_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut, "model.safetensors has"),
        (spoil, "model.safetensors has a damaged header"),
        (lose_part, "model-00002-of-00002.safetensors is missing"),
        (lose_weights, "there are no weights"),
        (lose_config, "config.json is missing, or no object"),
        (lose_tokenizer, "it has no tokenizer"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_files_that_are_missing_or_cut_short_are_found_without_loading_them(
    harm: Callable[[Path], None], reason: str, llama_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(llama_path, folder)
    harm(folder)
    [told] = look_at(str(folder)).wrong
    assert reason in told
