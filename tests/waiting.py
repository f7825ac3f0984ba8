"""Waiting for what another process does, which sets no event here."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.02
# No test depends on it: what takes longer on the busiest machine hangs.
HANG_S = 180.0


def wait_for(
    condition: Callable[[], bool],
    describe: Callable[[], str] = lambda: "",
    *,
    hang_s: float = HANG_S,
) -> None:
    """Wait until `condition` holds; `describe` is what is known when it never does."""
    deadline = time.monotonic() + hang_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about in {hang_s:g} s: {describe()}"
        time.sleep(POLL_S)
