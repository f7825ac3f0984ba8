"""Whether two hosts have the same files of a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ranks.joining.contents import (
    SAMPLE_BYTES,
    SAMPLES,
    describe_difference,
    read_contents,
    sample_offsets,
    source_elsewhere,
)


@pytest.fixture
def folders(tmp_path: Path, llama_path: Path) -> tuple[Path, Path]:
    """A model's folder on rank 0, and on another host."""
    return llama_path, Path(shutil.copytree(llama_path, tmp_path / "other"))


def difference(folders: tuple[Path, Path]) -> str | None:
    """How the other host's folder differs."""
    own, other = folders
    return describe_difference(read_contents(other), read_contents(own))


def test_the_same_files_do_not_differ(folders: tuple[Path, Path]) -> None:
    assert difference(folders) is None
    assert {"config.json", "model.safetensors"} <= read_contents(folders[0]).keys()


def test_a_file_that_is_missing_is_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "config.json").unlink()
    assert difference(folders) == "it has no config.json"


def test_a_file_that_is_there_besides_is_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "modeling.py").write_text("x = 1")
    assert difference(folders) == "it has modeling.py besides"


def test_each_changed_byte_of_a_small_file_is_noticed(folders: tuple[Path, Path]) -> None:
    weights = folders[1] / "model.safetensors"
    content = weights.read_bytes()
    for place in range(0, len(content), 9973):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        weights.write_bytes(changed)
        assert "its model.safetensors is another one" in (difference(folders) or "")


def test_many_differences_are_counted(folders: tuple[Path, Path]) -> None:
    for number in range(5):
        (folders[1] / f"{number}.txt").write_text("x")
    assert "and 2 more" in (difference(folders) or "")


@given(size=st.integers(0, SAMPLES * SAMPLE_BYTES))
def test_a_file_up_to_64_mib_is_read_in_full(size: int) -> None:
    offsets = list(sample_offsets(size))
    ends = [offset + SAMPLE_BYTES for offset in offsets]
    assert offsets[:1] == ([0] if size else [])
    assert offsets[1:] == ends[:-1]
    assert not size or ends[-1] >= size


@given(size=st.integers(SAMPLES * SAMPLE_BYTES, 1 << 40))
def test_of_a_larger_file_each_of_1024_parts_has_a_sample(size: int) -> None:
    offsets = list(sample_offsets(size))
    assert SAMPLES <= len(offsets) <= SAMPLES + 1
    assert offsets[0] == 0
    assert size - offsets[-1] <= size // SAMPLES


def test_a_model_is_the_same_hub_id_or_path_elsewhere(tmp_path: Path) -> None:
    assert source_elsewhere("org/model", tmp_path) == "org/model"
    assert source_elsewhere(str(tmp_path), tmp_path) == str(tmp_path)
    assert source_elsewhere(None, tmp_path) is None
