"""Checks of models that are made once for all pools, as where the prompt cache has a folder.

What a check finds, and when it is made, is tested in `selfcheck` and in `models`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from worker.models import pool
from worker.selfcheck.check_store import CheckStore


@contextmanager
def kept_checks(folder: Path) -> Iterator[None]:
    """Let the pools that are made meanwhile, without a folder of their own, keep results here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "CheckStore", partial(open_store, folder))
        yield


def open_store(shared: Path, own: Path | None, settings: Sequence[object]) -> CheckStore:
    """The results in a pool's own folder, else in the shared one."""
    return CheckStore(own or shared, settings)
