"""Fixtures of the scheduler's tests, which load the same few models into many pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.kept_checks import kept_checks
from tests.worker.scheduler.timed_device import TimedDevice
from tests.worker.simulation import make_pool


@pytest.fixture(scope="package", autouse=True)
def _kept_checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each model is checked once."""
    with kept_checks(tmp_path_factory.mktemp("checks")):
        yield


@pytest.fixture
def paths(llama_path: Path, tmp_path: Path) -> list[Path]:
    """One model under three names."""
    links = [tmp_path / name for name in ("second", "third")]
    for link in links:
        link.symlink_to(llama_path)
    return [llama_path, *links]


@pytest.fixture
def device(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> TimedDevice:
    """A device with these models loaded."""
    pool = make_pool(*paths, preload=[path.name for path in paths])
    return TimedDevice(pool, monkeypatch)
