"""A check's result is kept by all that it depends on, for its owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from protocol.batching import BatchRules
from worker.selfcheck.check_store import MAX_FILES, CheckStore

RULES = BatchRules("decode", True, False, ["why"], [])


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    CheckStore(tmp_path, ["cpu"]).write("key", RULES)
    assert CheckStore(tmp_path, ["cpu"]).read("key") == RULES
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_another_model_or_device_has_no_result(tmp_path: Path) -> None:
    store = CheckStore(tmp_path, ["cpu"])
    store.write("key", RULES)
    assert store.read("other") is None
    assert CheckStore(tmp_path, ["gpu"]).read("key") is None


def test_another_version_has_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckStore(tmp_path).write("key", RULES)
    monkeypatch.setattr("worker.selfcheck.check_store.version", lambda package: "0.0.1")
    assert CheckStore(tmp_path).read("key") is None


def test_an_incomplete_result_is_not_kept(tmp_path: Path) -> None:
    CheckStore(tmp_path).write("key", BatchRules(unchecked=["cached prefixes"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'["all",1]', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    store = CheckStore(tmp_path)
    store.write("key", RULES)
    [file] = tmp_path.iterdir()
    file.write_bytes(content)
    assert store.read("key") is None
    store.write("key", RULES)
    assert store.read("key") == RULES


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store = CheckStore(tmp_path)
    store.write("key", RULES)
    [file] = tmp_path.iterdir()
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert store.read("key") is None


def test_the_oldest_results_are_removed(tmp_path: Path) -> None:
    store = CheckStore(tmp_path)
    for number in range(MAX_FILES + 5):
        store.write(f"key {number}", RULES)
    assert len(list(tmp_path.iterdir())) == MAX_FILES
    assert store.read(f"key {MAX_FILES + 4}") == RULES


def test_a_folder_that_cannot_be_written_costs_only_the_result(tmp_path: Path) -> None:
    store = CheckStore(tmp_path / "missing")
    store.write("key", RULES)
    assert store.read("key") is None


def test_without_a_folder_nothing_is_kept() -> None:
    store = CheckStore()
    store.write("key", RULES)
    assert store.read("key") is None
