"""Checks that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def expect_no_error() -> Iterator[None]:
    """Fail the test where the block raises."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"it raised {error!r}")
