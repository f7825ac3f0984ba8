from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from service.commands.serve import OTHER_FILES, connection_limit


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """A low limit on the open files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_connection_limit_leaves_room_for_other_open_files(soft_limit: int) -> None:
    assert connection_limit(1000) == soft_limit - OTHER_FILES
    assert connection_limit(10) == 10
