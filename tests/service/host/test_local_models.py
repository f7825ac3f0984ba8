from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.host.local_models import inspect_model


def test_whole_models_have_no_problem_and_a_size(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        files = inspect_model(str(path))
        assert (files.folder, files.problems) == (path, [])
        assert files.weight_bytes == (path / "model.safetensors").stat().st_size


def test_the_built_in_model_is_whole() -> None:
    files = inspect_model(None)
    assert files.problems == []
    assert files.weight_bytes > 0


@pytest.mark.parametrize("source", ["nobody/has-this", "nobody/has this", "a/b/c"])
def test_a_source_that_is_not_a_folder_is_a_hub_id_or_a_problem(source: str) -> None:
    files = inspect_model(source)
    assert files.folder is None or files.problems


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_header(folder: Path) -> None:
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
    ("damage", "reason"),
    [
        (truncate, "model.safetensors has"),
        (damage_header, "model.safetensors has a damaged header"),
        (lose_part, "model-00002-of-00002.safetensors is missing"),
        (lose_weights, "there are no weights"),
        (lose_config, "config.json is missing or not a JSON object"),
        (lose_tokenizer, "it has no tokenizer"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_missing_or_truncated_files_are_problems(
    damage: Callable[[Path], None], reason: str, llama_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(llama_path, folder)
    damage(folder)
    [problem] = inspect_model(str(folder)).problems
    assert reason in problem
