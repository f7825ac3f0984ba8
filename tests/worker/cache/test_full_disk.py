"""A write that fails leaves nothing behind, and a full disk costs old prefixes, not requests."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worker.cache import disk_store
from worker.cache.cache_folder import SUBFOLDER
from worker.cache.disk_store import DiskStore
from worker.cache.serialization import SerializedNode

LIMIT_BYTES = 1 << 20
NODE_BYTES = 10_000
RESERVE_BYTES = 50_000
MODEL = "model"


def node(length: int) -> SerializedNode:
    arrays = {"0.0": np.zeros(NODE_BYTES, np.uint8)}
    return SerializedNode(0, length, [], arrays)


def tokens_of(number: int) -> list[int]:
    return [number, 1, 2]


def put(store: DiskStore, *numbers: int) -> None:
    for number in numbers:
        store.put(MODEL, tokens_of(number), node(3))


def put_large(store: DiskStore, number: int) -> None:
    """Put a node that is larger than the room for all files."""
    arrays = {"0.0": np.zeros(8 * NODE_BYTES, np.uint8)}
    store.put(MODEL, tokens_of(number), SerializedNode(0, 3, [], arrays))


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / SUBFOLDER / MODEL).iterdir())


def readable(folder: Path, *numbers: int) -> list[int]:
    """The numbers of the nodes that a new store can read."""
    store = DiskStore(folder, LIMIT_BYTES, 1)
    found = []
    for number in numbers:
        store.fetch(MODEL, [*tokens_of(number), 9])
        found += [number] * len(store.take_fetched(MODEL, [*tokens_of(number), 9]))
    store.close()
    return found


class Disk:
    """A disk of which others leave `room` bytes to the store's files."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder / SUBFOLDER
        self.room = room

    def free_bytes(self, folder: Path) -> int:
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        return self.room - sum(sizes)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path, 5 * NODE_BYTES + RESERVE_BYTES)
    monkeypatch.setattr(disk_store, "free_bytes", disk.free_bytes)
    return disk


def test_the_oldest_files_make_room_and_the_reserve_stays_free(disk: Disk, tmp_path: Path) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, RESERVE_BYTES)
    put(store, *range(10))
    store.close()
    assert disk.free_bytes(tmp_path) >= RESERVE_BYTES
    assert readable(tmp_path, *range(10)) == [6, 7, 8, 9]


def test_a_disk_that_others_fill_gets_its_reserve_back(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, RESERVE_BYTES)
    put(store, 1, 2, 3)
    store.close()
    disk.room = RESERVE_BYTES - 1
    store = DiskStore(tmp_path, LIMIT_BYTES, RESERVE_BYTES)
    assert files_of(tmp_path) == []
    put(store, 4)
    store.close()
    assert files_of(tmp_path) == []
    assert caplog.text.count("nothing is written") == 1


def test_large_files_that_do_not_fit_between_small_ones_that_do_are_logged_once(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, RESERVE_BYTES)
    for number in range(20):
        put(store, number)
        put_large(store, 100 + number)
    store.close()
    assert readable(tmp_path, 18, 19, 119) == [18, 19]
    assert caplog.messages == [
        "prompt cache: no file of more than 0.0 MiB is written; 0.0 MiB stay free on its disk"
    ]


def test_nothing_is_evicted_for_a_file_that_does_not_fit_even_so(
    disk: Disk, tmp_path: Path
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, RESERVE_BYTES)
    put(store, 1)
    put_large(store, 2)
    store.close()
    assert readable(tmp_path, 1, 2) == [1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_without_space_evicts_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    put(store, 1, 2)
    store.close()
    monkeypatch.setattr(Path, "replace", fail_once(code, Path.replace))
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    put(store, 3)
    store.close()
    assert readable(tmp_path, 1, 2, 3) == [2, 3]
    assert len(files_of(tmp_path)) == 2


@pytest.mark.parametrize("failing", ["fdopen", "open"])
def test_a_write_that_fails_leaves_no_draft_and_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    monkeypatch.setattr(os, failing, fail_once(errno.EIO, getattr(os, failing)))
    put(store, 1, 2)
    store.close()
    assert readable(tmp_path, 1, 2) == [2]
    [file] = files_of(tmp_path)
    assert store.nbytes == (tmp_path / SUBFOLDER / MODEL / file).stat().st_size


def fail_once(code: int, function: Callable[..., object]) -> Callable[..., object]:
    calls: list[int] = []

    def fail(*args: object, **kwargs: object) -> object:
        if not calls:
            calls.append(1)
            raise OSError(code, os.strerror(code))
        return function(*args, **kwargs)

    return fail


def test_a_file_that_the_system_cuts_is_removed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (NODE_BYTES // 2, hard))
    try:
        put(store, 1, 2)
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(tmp_path) == []
    assert store.nbytes == 0


def test_the_drafts_of_an_earlier_process_are_removed_at_the_start(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    put(store, 1)
    store.close()
    [file] = files_of(tmp_path)
    draft = tmp_path / SUBFOLDER / MODEL / file.replace("safetensors", "4711.draft")
    draft.write_bytes(b"x" * 100)
    assert readable(tmp_path, 1) == [1]
    assert files_of(tmp_path) == [file]


def test_a_draft_counts_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    replace = Path.replace

    def record(draft: Path, target: Path) -> Path:
        counted.append(store.nbytes - draft.stat().st_size)
        return replace(draft, target)

    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    monkeypatch.setattr(Path, "replace", record)
    put(store, 1)
    store.close()
    assert counted == [0]


def test_a_file_that_cannot_be_deleted_fails_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, LIMIT_BYTES, 1)
    put(store, 1)
    store.close()
    [file] = files_of(tmp_path)
    (tmp_path / SUBFOLDER / MODEL / file).write_bytes(b"damaged")
    monkeypatch.setattr(Path, "unlink", fail_once(errno.EROFS, Path.unlink))
    assert readable(tmp_path, 1) == []
    assert "cannot be deleted" in caplog.text
