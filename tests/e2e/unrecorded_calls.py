"""What a test of LangChain's suite has of pytest-recording and pytest-benchmark, and is skipped.

It compares times of recorded calls, and here nothing is recorded. The two plugins would run two
more fixtures for each test of the whole run.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def benchmark() -> None:
    """Nothing is timed."""


@pytest.fixture
def vcr() -> None:
    """Nothing is recorded."""
