"""Rows in slots hold what was written to them, while others join and leave."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache
from numpy.typing import NDArray

from worker.engine.batches.row_positions import MASKED_STEPS, RowPositions, make_causal_mask
from worker.engine.batches.row_slots import CLOSING_STEPS, RowSlots
from worker.engine.batches.slot_arrays import STEP_TOKENS, round_up
from worker.engine.batches.slot_cache import (
    MAX_HELD_SHARE,
    drop_tokens,
    share_positions,
    to_slots,
)
from worker.engine.batches.slot_room import SlotRoom
from worker.engine.rows.prompt_batch import share_arrays

HEADS, WIDTH, VALUE_WIDTH = 2, 4, 3
PLACES = 5
SEEDS = itertools.count()

lengths = st.lists(st.integers(0, 600), min_size=1, max_size=3)
joins = st.tuples(st.just("join"), lengths)
leaves = st.tuples(st.just("leave"), st.integers(1, 2**16))
closings = st.tuples(st.just("close"), st.just(0))
steps = st.tuples(st.just("step"), st.sampled_from([1, 3, 300]))
squeezes = st.tuples(st.just("squeeze"), st.just(0))
drafts = st.tuples(st.just("verify"), st.integers(0, 2**16))


@settings(deadline=None)
@given(
    events=st.lists(
        st.one_of(joins, leaves, closings, steps, squeezes, drafts), min_size=1, max_size=12
    ),
    spare_bytes=st.sampled_from([0, 1 << 14, 1 << 40]),
)
def test_each_row_keeps_its_tokens_while_others_join_and_leave(
    events: list[tuple[str, list[int] | int]], spare_bytes: int
) -> None:
    batch = Batch([5, 300], spare_bytes)
    for event in events:
        match event:
            case "join", list(sizes):
                batch.join(sizes)
            case "leave", int(choice):
                batch.leave(choice)
            case "close", _:
                batch.close()
            case "step", int(tokens):
                batch.step(tokens)
            case "squeeze", _:
                batch.squeeze()
            case "verify", int(choice):
                batch.verify(choice)
        batch.check()


@given(events=st.lists(st.one_of(joins, leaves, steps), max_size=20))
def test_gaps_cost_no_more_than_to_close_them_does_before_they_are(
    events: list[tuple[str, list[int] | int]],
) -> None:
    slots, wasted = RowSlots(4), 0.0
    for event in events:
        match event:
            case "join", list(sizes):
                added = slots.add(len(sizes))
                assert len(set(slots.slots)) == len(slots.slots)
                assert slots.slots[-len(sizes) :] == added
            case "leave", int(choice):
                rows = range(len(slots.slots))
                slots.keep([row for row in rows if not choice >> row & 1] or [0])
            case "step", _:
                slots.count_step()
                wasted += slots.gaps / slots.width
        wasted = wasted if slots.gaps else 0.0
        assert max(slots.slots) < slots.width
        numbers = list(range(len(slots.slots)))
        spread = slots.spread(mx.array(numbers))
        assert np.array(slots.gather(spread)).tolist() == numbers
        assert np.array(spread)[slots.slots].tolist() == numbers
        assert slots.is_wasteful == (wasted >= CLOSING_STEPS)


def test_rows_join_and_leave_without_a_copy_of_the_others() -> None:
    batch = Batch([40] * 16)
    batch.join([30], room=20)
    assert batch.capacity == (20, STEP_TOKENS)
    before = batch.pointers()
    batch.join([20])
    batch.step(1)
    batch.leave(0b1)
    batch.step(1)
    batch.join([10])
    batch.step(1)
    assert batch.pointers() == before
    assert batch.slots.gaps == 0
    batch.check()


def test_a_row_alone_keeps_the_arrays_of_its_prefill() -> None:
    prefill = BatchKVCache.merge([one_row(np.ones((HEADS, 300, WIDTH), np.float32))])
    [cache] = to_slots([prefill])
    assert cache.keys is prefill.keys


def test_a_row_alone_has_the_arrays_of_its_cached_prefix() -> None:
    own = [one_row(np.ones((HEADS, 300, WIDTH), np.float32))]
    batch = [BatchKVCache.merge(own)]
    share_arrays(batch, own)
    arrays = (batch[0].keys, own[0].keys)
    mx.eval(arrays)
    shared, cached = (np.array(array, copy=False).ctypes.data for array in arrays)
    assert shared == cached
    new = mx.full((1, HEADS, 1, WIDTH), 2.0)
    keys, _ = batch[0].update_and_fetch(new, new[..., :VALUE_WIDTH])
    assert np.array(keys)[0, 0, :, 0].tolist() == [1.0] * 300 + [2.0]
    assert np.array(own[0].keys)[0, :, :300].min() == 1.0
    assert own[0].offset == 300


def test_arrays_shrink_when_the_gap_of_a_long_row_is_closed() -> None:
    batch = Batch([3000, 40, 30, 20])
    batch.leave(0b0001)
    batch.close()
    assert batch.capacity == (3, STEP_TOKENS)
    batch.check()


def test_arrays_shrink_when_all_rows_but_the_first_have_left() -> None:
    batch = Batch([300] * 8)
    batch.leave(0b11111110)
    assert batch.capacity == (1, 2 * STEP_TOKENS)
    batch.check()


def test_holes_hold_no_slack_back() -> None:
    batch = Batch([1000, 1000], spare_bytes=1 << 40)
    # In turn each row keeps a place and the other one four.
    for choice in (0b0011, 0b1100) * 4:
        batch.verify(choice)
    assert max(row.shape[1] for row in batch.rows) < 4 * STEP_TOKENS < batch.layer.end
    batch.squeeze()
    assert batch.capacity == (2, 4 * STEP_TOKENS)
    batch.check()


def test_zeros_replace_what_a_row_has_left_in_its_slot() -> None:
    batch = Batch([40, 40, 40])
    keys, values = batch.layer.state
    assert keys is not None
    assert values is not None
    keys[1] = mx.array(float("nan"))
    values[1] = mx.array(float("nan"))
    batch.leave(0b10)
    batch.join([3])
    assert batch.slots.slots == [0, 2, 1]
    batch.check()


def test_layers_share_the_arrays_of_positions() -> None:
    caches = [one_row(np.ones((HEADS, n, WIDTH), np.float32)) for n in (3, 5)]
    layers = to_slots([BatchKVCache.merge(caches), CacheList(BatchKVCache.merge(caches))])
    first, second = layers[0], layers[1].caches[0]
    assert first.offset is second.offset
    assert first.make_mask(1) is second.make_mask(1)
    for layer in layers:
        layer.filter([1])
    share_positions(layers)
    assert first.offset is second.offset
    assert first.make_mask(1) is None


def test_masks_are_those_of_mlx_lm() -> None:
    caches = [one_row(np.ones((HEADS, n, WIDTH), np.float32)) for n in (3, 5)]
    theirs = BatchKVCache.merge(caches)
    [ours] = to_slots([BatchKVCache.merge(caches)])
    for tokens in (1, 4):
        for window in (None, 2):
            mask = theirs.make_mask(tokens, window_size=window)
            assert mx.array_equal(ours.make_mask(tokens, window_size=window), mask)
    [unpadded] = to_slots([BatchKVCache.merge(caches[:1])])
    assert unpadded.make_mask(1) is None
    assert unpadded.make_mask(4) == "causal"
    assert unpadded.make_mask(4, return_array=True).shape == (4, 7)
    assert unpadded.make_mask(1, window_size=2).shape == (1, 1, 1, 4)


def test_the_masks_of_following_steps_are_those_of_mlx_lm() -> None:
    positions = RowPositions([2, 0, 5])
    for end in (5, 6, 6, 7, MASKED_STEPS, 3 * MASKED_STEPS, 40):
        expected = make_causal_mask(1, end, None, mx.array(positions.paddings))
        mask = positions.mask(1, end, None)
        assert isinstance(mask, mx.array)
        assert (mask.shape, mask.dtype) == (expected.shape, expected.dtype)
        assert mx.array_equal(mask, expected)


# ------------------------------------------------------------ rows


class Batch:
    """One layer, the slots of its rows, and what each row should hold."""

    def __init__(self, sizes: list[int], spare_bytes: int = 0) -> None:
        self.rows = [make_row(size) for size in sizes]
        self.room = SlotRoom(lambda: spare_bytes)
        [self.layer] = to_slots([BatchKVCache.merge([one_row(row) for row in self.rows])])
        self.slots = RowSlots(len(sizes))
        self.has_drafts = False

    @property
    def capacity(self) -> tuple[int, int]:
        keys, _ = self.layer.state
        assert keys is not None
        return keys.shape[0], keys.shape[2]

    def join(self, sizes: list[int], room: int = 0) -> None:
        other = Batch(sizes)
        added = self.slots.add(len(sizes))
        self.layer.extend(other.layer, added, room or self.room.slots_for(self.slots))
        self.rows += other.rows

    def leave(self, choice: int) -> None:
        """Remove the rows whose bits are set; the first one stays if all are."""
        keep = [row for row in range(len(self.rows)) if not choice >> row & 1] or [0]
        self.rows = [self.rows[row] for row in keep]
        self.slots.keep(keep)
        self.layer.filter(range(self.slots.width), self.room.max_share)

    def close(self) -> None:
        self.layer.filter(self.slots.slots)
        self.slots.close()
        if self.layer.keys is not None and self.layer.positions.holes is None:
            slots, tokens = self.capacity
            longest = max(row.shape[1] for row in self.rows)
            assert slots * tokens <= MAX_HELD_SHARE * len(self.rows) * max(round_up(longest), 1)

    def step(self, tokens: int) -> None:
        self.room.note([self.layer])
        self.room.make_place([self.layer], self.slots, tokens)
        new = [make_row(tokens) for _ in self.rows]
        written = np.zeros((self.slots.width, HEADS, tokens, WIDTH), np.float32)
        written[self.slots.slots] = new
        keys = mx.array(written)
        fetched, _ = self.layer.update_and_fetch(keys, keys[..., :VALUE_WIDTH])
        assert fetched.shape == (self.slots.width, HEADS, self.layer.end, WIDTH)
        self.rows = [np.concatenate(pair, axis=1) for pair in zip(self.rows, new, strict=True)]

    def verify(self, choice: int) -> None:
        """Compute some places of each row, and take back all but the first ones."""
        self.has_drafts = True
        self.step(PLACES)
        kept = [1 + (choice >> 2 * row) % 4 for row in range(len(self.rows))]
        dropped = [0] * self.slots.width
        for slot, count in zip(self.slots.slots, kept, strict=True):
            dropped[slot] = PLACES - count
        self.rows = [
            row[:, : row.shape[1] - PLACES + count]
            for row, count in zip(self.rows, kept, strict=True)
        ]
        drop_tokens([self.layer], dropped)

    def squeeze(self) -> None:
        self.room.note([self.layer])
        self.room.squeeze([self.layer], self.slots)
        assert self.room.slack_bytes(len(self.rows)) == 0

    def check(self) -> None:
        """What a step would read: each row's tokens, and zeros before them without drafts."""
        offsets = np.array(self.layer.offset)[self.slots.slots]
        assert offsets.tolist() == [row.shape[1] for row in self.rows]
        for slot, row in zip(self.slots.slots, self.rows, strict=True):
            extracted = self.layer.extract(slot)
            assert extracted.offset == row.shape[1]
            if row.shape[1]:
                assert np.array_equal(np.array(extracted.keys)[0], row)
                assert np.array_equal(np.array(extracted.values)[0], row[..., :VALUE_WIDTH])
            if self.layer.keys is not None and not self.has_drafts:
                padding = np.array(self.layer.keys[slot, :, : self.layer.end - row.shape[1]])
                assert not padding.any()

    def pointers(self) -> list[int]:
        """The addresses of the arrays' buffers."""
        arrays = [array for array in self.layer.state if array is not None]
        mx.eval(arrays)
        return [np.array(array, copy=False).ctypes.data for array in arrays]


def make_row(tokens: int) -> NDArray[np.float32]:
    """Tokens that are unlike those of every other row, and not zero."""
    return np.random.default_rng(next(SEEDS)).random((HEADS, tokens, WIDTH), np.float32) + 1


def one_row(row: NDArray[np.float32]) -> KVCache:
    cache = KVCache()
    if row.shape[1]:
        keys = mx.array(row)[None]
        cache.update_and_fetch(keys, keys[..., :VALUE_WIDTH])
    return cache
