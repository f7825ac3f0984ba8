"""Keeps the limit on open files from failing the import of mlx-lm.

mlx-lm 0.32.2 (`mlx_lm/utils.py`) sets the limit to (2048, 4096) when it is imported. That
raises where the hard limit is lower, as with `LimitNOFILE=1024`, and it lowers limits that are
higher. Remove this module when mlx-lm leaves the limit alone.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_files_limit_kept() -> Iterator[None]:
    """Import mlx-lm for the first time within this block.

    Within it a change of the limit on open files only raises the soft limit, as far as the
    hard limit allows.
    """
    setter = resource.setrlimit

    def set_limit(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_NOFILE:
            hard = resource.getrlimit(kind)[1]
            limits = (raised_soft_limit(limits[0]), hard)
        setter(kind, limits)

    resource.setrlimit = set_limit
    try:
        yield
    finally:
        resource.setrlimit = setter


def raised_soft_limit(wanted: int) -> int:
    """The soft limit on open files, or `wanted` if that is higher and permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, wanted):
        return soft
    return max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
