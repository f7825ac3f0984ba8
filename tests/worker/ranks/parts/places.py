"""A group that nothing is sent over."""

from __future__ import annotations

import mlx.core as mx


class Group:
    """Its size and a rank."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def make_group(size: int, rank: int = 0) -> mx.distributed.Group:
    """This rank's group of this size."""
    return Group(size, rank)  # type: ignore[return-value]
