"""Arrays with free slots: [slots, heads, tokens, width].

MLX updates an array in place where nothing else holds its buffer. A row cannot move within its
array so, since what reads it holds the buffer: rows are written once, or copied to a new array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import mlx.core as mx

# The arrays' tokens are a multiple of this, as those of mlx-lm's caches.
STEP_TOKENS = 256
# Arrays that are full are copied to larger ones by this factor, where their bytes are spare.
GROWTH = 1.5
# How much of what is held is copied at once, as a share; and at least these bytes. The memory
# budget keeps the same share free by default, so a copy needs no bytes of its own.
COPIED_SHARE, MIN_COPIED_BYTES = 1 / 32, 64 * 1024 * 1024


def make_room(array: mx.array | None, new: mx.array, start: int) -> mx.array:
    """An array with room for these tokens of each row behind its first `start` tokens."""
    rows, heads, tokens, width = new.shape
    end = start + tokens
    if array is None:
        return mx.zeros((rows, heads, round_up(end), width), new.dtype)
    if end <= array.shape[2]:
        return array
    return extend_room(array, rows, start, end)


def extend_room(array: mx.array, rows: int, end: int, room: int) -> mx.array:
    """A copy of the first `end` tokens of the first rows, with room for `room` tokens of each."""
    return copy_rows(array, range(rows), slice(0, end), (rows, round_up(room)), end)


def place_rows(
    array: mx.array | None,
    size: tuple[int, int],
    other: mx.array | None,
    other_end: int,
    slots: Sequence[int],
    room: int = 0,
) -> mx.array:
    """An array with the rows of the other in these slots; all rows end at the same token.

    `size` is the rows of the first array and the token at which they end. An array that is None
    has no tokens. A new array has `room` slots, or as many as there are rows.
    """
    (rows, end), last = size, max(size[1], other_end)
    if other is None:
        assert array is not None
        other, other_end = array[:0, :, :0], 0
    if array is None:
        array, end = other[:0, :, :0], 0
    used = max(rows, max(slots) + 1)
    if used > array.shape[0] or last > end:
        new_size = max(array.shape[0], used, room), max(array.shape[2], round_up(last))
        array = copy_rows(array, range(rows if end else 0), slice(0, end), new_size, last)
    start = last - other_end
    for row, slot in enumerate(slots):
        if start:
            array[slot, :, :start] = mx.array(0, array.dtype)
        if other_end:
            array[slot, :, start:last] = other[row, :, :other_end]
    return array


def copy_rows(
    array: mx.array, rows: Sequence[int], taken: slice, size: tuple[int, int], end: int
) -> mx.array:
    """A new array of `size` slots and tokens with these tokens of these rows, up to `end`."""
    slots, tokens = size
    copied = mx.zeros((slots, array.shape[1], tokens, array.shape[3]), array.dtype)
    start = end - (taken.stop - taken.start)
    place = 0
    for run in consecutive(rows):
        following = place + len(run)
        copied[place:following, :, start:end] = array[run.start : run.stop, :, taken]
        place = following
    return copied


def consecutive(rows: Sequence[int]) -> Iterator[range]:
    """The rows in runs of neighbours."""
    first = 0
    for place, row in enumerate(rows):
        if place + 1 == len(rows) or rows[place + 1] != row + 1:
            yield range(rows[first], row + 1)
            first = place + 1


def grow(tokens: int) -> int:
    """The tokens of arrays that hold half as many more, at most: a multiple of the step."""
    return round_down(int(tokens * GROWTH))


def round_up(tokens: int) -> int:
    """A multiple of the step."""
    return -(-tokens // STEP_TOKENS) * STEP_TOKENS


def round_down(tokens: int) -> int:
    """A multiple of the step."""
    return tokens // STEP_TOKENS * STEP_TOKENS


class Held(Protocol):
    """A cache that holds arrays."""

    @property
    def nbytes(self) -> int: ...

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]: ...


class CopiedCaches:
    """Computes the caches that are copied in parts, so that their old arrays are freed early.

    `held_bytes` are those of all caches.
    """

    def __init__(self, held_bytes: int) -> None:
        self._part_bytes = max(int(held_bytes * COPIED_SHARE), MIN_COPIED_BYTES)
        self._arrays: list[mx.array | None] = []
        self._nbytes = 0

    @contextmanager
    def change(self, cache: Held) -> Iterator[None]:
        """Note the cache if the block gives it new arrays; wait for a part that is complete."""
        # A reference would keep the old arrays.
        before = id(cache.state[0])
        yield
        if id(cache.state[0]) == before:
            return
        self._arrays += cache.state
        self._nbytes += cache.nbytes
        if self._nbytes >= self._part_bytes:
            mx.eval(self._arrays)
            self._arrays, self._nbytes = [], 0
