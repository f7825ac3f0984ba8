"""Fixtures of the tests of the scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.scheduler.timed_device import TimedDevice
from tests.worker.simulation import make_pool


@pytest.fixture
def paths(llama_path: Path, tmp_path: Path) -> list[Path]:
    links = [tmp_path / name for name in ("second", "third")]
    for link in links:
        link.symlink_to(llama_path)
    return [llama_path, *links]


@pytest.fixture
def device(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> TimedDevice:
    pool = make_pool(*paths, preload=[path.name for path in paths])
    return TimedDevice(pool, monkeypatch)
