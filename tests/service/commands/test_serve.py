from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from service.commands.serve import OTHER_FILES, connection_limit


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """A low limit on this process's open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_leave_open_files_for_the_rest(soft_limit: int) -> None:
    assert connection_limit(1000) == soft_limit - OTHER_FILES
    assert connection_limit(10) == 10
