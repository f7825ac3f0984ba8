"""The key of this installation: made once, for its user alone, or in memory where that fails."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.config.installation_key import KEY_BYTES, load_installation_key


def test_the_key_is_made_once_and_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "installation.key"
    key = load_installation_key(str(path))
    assert len(key) == KEY_BYTES
    assert load_installation_key(str(path)) == key == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o644)
    load_installation_key(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_services_that_start_together_have_one_key(tmp_path: Path) -> None:
    path = str(tmp_path / "installation.key")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(load_installation_key, [path] * 32))
    assert len(set(keys)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["installation.key"]


def test_without_a_usable_file_the_key_is_in_memory_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    for name in ("short", "folder", "short/installation.key"):
        caplog.clear()
        path = str(tmp_path / name)
        assert len(load_installation_key(path)) == KEY_BYTES
        [record] = caplog.records
        assert path in record.getMessage()
    assert (tmp_path / "short").read_bytes() == b"abc"
    caplog.clear()
    assert load_installation_key("off") != load_installation_key("off")
    assert not caplog.records
