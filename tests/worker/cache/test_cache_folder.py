"""The configured folder is left as it is; the subfolder is its owner's alone, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from protocol.units import GIB, MIB
from worker.cache.cache_folder import (
    SUBFOLDER,
    FolderRefused,
    RoomState,
    default_reserve_bytes,
    open_subfolder,
)
from worker.cache.disk_store import DiskStore
from worker.cache.serialization import SerializedNode

LIMIT_BYTES = 1 << 20


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o777, 0o1777])
def test_a_folder_that_exists_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    (tmp_path / "mine.txt").write_text("keep me")
    store = DiskStore(tmp_path, LIMIT_BYTES)
    store.put("model", [1, 2, 3], SerializedNode(0, 3, [], {}))
    store.close()
    assert mode_of(tmp_path) == mode
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    modes = {path.is_dir(): mode_of(path) for path in (tmp_path / SUBFOLDER).rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
    assert mode_of(tmp_path / SUBFOLDER) == 0o700


def test_missing_folders_are_created_for_the_owner_alone_whatever_the_umask(
    tmp_path: Path,
) -> None:
    before = os.umask(0o277)
    try:
        subfolder = open_subfolder(tmp_path / "a")
    finally:
        os.umask(before)
    assert mode_of(subfolder) == 0o700
    assert open_subfolder(tmp_path / "a") == subfolder


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o500, 0o777])
def test_a_subfolder_with_other_permissions_is_refused_and_unchanged(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / SUBFOLDER).mkdir()
    (tmp_path / SUBFOLDER).chmod(mode)
    with pytest.raises(FolderRefused, match=f"has the permissions {mode:04o}, not 0700"):
        DiskStore(tmp_path, LIMIT_BYTES)
    assert mode_of(tmp_path / SUBFOLDER) == mode


def test_a_link_a_file_and_another_users_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / SUBFOLDER).symlink_to(elsewhere)
    with pytest.raises(FolderRefused, match="symbolic link"):
        open_subfolder(tmp_path)
    assert list(elsewhere.iterdir()) == []
    (tmp_path / SUBFOLDER).unlink()
    (tmp_path / SUBFOLDER).write_text("a file")
    with pytest.raises(FolderRefused, match="not a folder"):
        open_subfolder(tmp_path)
    (tmp_path / SUBFOLDER).unlink()
    open_subfolder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(FolderRefused, match="another user"):
        open_subfolder(tmp_path)


def test_the_files_of_earlier_versions_are_left_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = tmp_path / ("0" * 32)
    earlier.mkdir()
    (earlier / f"3-{'1' * 32}.safetensors").write_text("old")
    store = DiskStore(tmp_path, LIMIT_BYTES)
    store.fetch("0" * 32, [1, 2, 3, 4])
    assert store.take_fetched("0" * 32, [1, 2, 3, 4]) == []
    store.close()
    assert [path.read_text() for path in earlier.iterdir()] == ["old"]
    assert f"can be deleted: {earlier}" in caplog.text


def test_the_default_reserve_is_a_share_of_the_disk_or_1_gib(tmp_path: Path) -> None:
    system = os.statvfs(tmp_path)
    share = system.f_blocks * system.f_frsize * 0.05
    assert default_reserve_bytes(tmp_path) == min(GIB, int(share))


def test_a_shortage_and_its_end_are_logged_when_they_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = RoomState(40 * MIB)
    # A change of the free space by less than a quarter of the reserve, and files of other sizes.
    for room in (0, 10 * MIB, 3 * MIB, 12 * MIB, 0, 12 * MIB):
        state.update(3 * MIB, room)
        state.update(1 * MIB, room)
    assert caplog.messages == ["prompt cache: nothing is written; 40.0 MiB stay free on its disk"]
    caplog.clear()
    state.update(1, 13 * MIB)
    state.update(1, 14 * MIB)
    assert caplog.messages == [
        "prompt cache: files of all sizes are written again; 40.0 MiB stay free on its disk"
    ]
    caplog.clear()
    state.update(5 * MIB, 4 * MIB)
    assert caplog.messages == [
        "prompt cache: no file of more than 4.0 MiB is written; 40.0 MiB stay free on its disk"
    ]
