"""The bytes that joins, leaves and growth copy, and what a copy takes beside what is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from protocol.quantisation import KVBits
from tests.device_memory import settled_bytes
from worker.engine.batches import slot_arrays, slot_cache
from worker.engine.batches.row_positions import RowPositions
from worker.engine.batches.row_slots import RowSlots
from worker.engine.batches.slot_arrays import STEP_TOKENS, round_up
from worker.engine.batches.slot_cache import (
    MAX_HELD_SHARE,
    SlotKVCache,
    drop_tokens,
    extend_layers,
    filter_layers,
    to_slots,
)
from worker.engine.batches.slot_room import CHECK_STEPS, SlotRoom
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.rows import row_generator
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)
PROMPT = list(range(3, 23))
JOINS = 64
MANY_TOKENS = 200
PLENTY = 1 << 40
LAYERS, HEADS, TOKENS, WIDTH = 8, 2, 256, 16
LONG_TOKENS = 4096
SLICED_TOKENS = 700
COPIED_ROWS = 2.0
"""The rows that a join may copy, its own included."""
PEAK_SHARE = 0.25
GROWN_COPIES = 3.0
"""The tokens that growth may copy for each that a row gets."""
SHARED_COPIES = 10.0
"""The same beside rows that join and leave: what they have left is given up after each growth."""


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each copy of rows from one array to another."""
    sizes: list[int] = []
    copy = slot_arrays.copy_rows

    def count(
        array: mx.array, rows: Sequence[int], taken: slice, size: tuple[int, int], end: int
    ) -> mx.array:
        tokens = taken.stop - taken.start
        sizes.append(len(rows) * array.shape[1] * tokens * array.shape[3] * array.dtype.size)
        return copy(array, rows, taken, size, end)

    for module in (slot_arrays, slot_cache):
        monkeypatch.setattr(module, "copy_rows", count)
    close = SlotKVCache.close_holes

    def count_closed(
        self: SlotKVCache, places: mx.array, positions: RowPositions, end: int, room: int = 0
    ) -> None:
        sizes.append(self.nbytes // self.capacity * end)
        close(self, places, positions, end, room)

    monkeypatch.setattr(SlotKVCache, "close_holes", count_closed)
    return sizes


@pytest.fixture
def engine(llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose memory budget has bytes to spare; its slices do not depend on the time."""
    monkeypatch.setattr(row_generator, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    model, _ = load_model(llama_path)
    engine = Engine(model, max_running=2 * JOINS, prefill=PrefillLimits(max_tokens=64))
    engine.grow_within(lambda: PLENTY)
    return engine


def test_joins_copy_each_row_once_on_average(engine: Engine, copied: list[int]) -> None:
    steps = sum(join(engine, id) for id in range(JOINS))
    # All rows are as long as the first one, which decodes in every step.
    own = JOINS * engine.kv_cost.batch_bytes(1, TOKENS) // TOKENS * (len(PROMPT) + steps)
    assert 0 < sum(copied) + own <= COPIED_ROWS * own


@pytest.mark.parametrize("kv_bits", [0, 8])
@pytest.mark.parametrize("alone", [False, True])
def test_slices_do_not_copy_the_prompt_before_them(
    kv_bits: KVBits, alone: bool, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    join_arrays, copy = mx.concatenate, slot_arrays.copy_rows

    def count_joined(arrays: list[mx.array], axis: int = 0) -> mx.array:
        if arrays[0].ndim == 4 and axis == 2:
            copied.append(arrays[0].shape[2])
        return join_arrays(arrays, axis)

    def count_copied(array: mx.array, rows: Sequence[int], taken: slice, *size: Any) -> mx.array:
        copied.append(taken.stop)
        return copy(array, rows, taken, *size)

    monkeypatch.setattr(mx, "concatenate", count_joined)
    monkeypatch.setattr(slot_arrays, "copy_rows", count_copied)
    model, _ = load_model(llama_path)
    engine = Engine(model, max_running=2, prefill=PrefillLimits(max_tokens=64), kv_bits=kv_bits)
    prompt = [token % 60 + 3 for token in range(SLICED_TOKENS)]
    engine.insert(0, prompt, 1, make_row(GREEDY), alone=alone)
    while len(engine):
        engine.step()
    arrays = 2 * len(model.layers)
    # The first slice, to arrays with room for all.
    assert sum(copied) <= 64 * arrays


def test_a_leave_copies_nothing_where_the_bytes_are_spare(
    engine: Engine, copied: list[int]
) -> None:
    for id in range(6):
        join(engine, id)
    copied.clear()
    engine.remove([1, 3, 5])
    assert copied == []
    assert len(engine.step()) == 3


def test_free_slots_are_given_up_where_their_bytes_are_needed(engine: Engine) -> None:
    for id in range(5):
        join(engine, id)
    assert engine.slack_bytes > 0
    engine.squeeze()
    assert engine.slack_bytes == 0
    assert len(engine.step()) == 5


def test_without_spare_bytes_no_more_is_held_than_before(engine: Engine) -> None:
    engine.grow_within(lambda: 0)
    for id in range(9):
        join(engine, id)
        assert engine.slack_bytes == 0


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_growth_copies_a_few_tokens_for_each_that_is_computed(rows: int, copied: list[int]) -> None:
    grown = Rows(rows, LONG_TOKENS, lambda: PLENTY)
    for _ in range(LONG_TOKENS):
        grown.step()
        assert grown.held_tokens <= rows * max(MAX_HELD_SHARE * grown.end, grown.end + STEP_TOKENS)
    own = rows * LONG_TOKENS * grown.token_bytes
    assert 0 < sum(copied) <= GROWN_COPIES * own


def test_growth_takes_no_more_than_the_budget_spares() -> None:
    grown = Rows(4, LONG_TOKENS, lambda: 3 * 4 * STEP_TOKENS * grown.token_bytes)
    grown.step()
    assert grown.held_tokens == 4 * (LONG_TOKENS + 4 * STEP_TOKENS)
    grown.room.spare_bytes = lambda: -1
    grown.room.squeeze(grown.layers, grown.slots)
    assert grown.held_tokens == 4 * (LONG_TOKENS + STEP_TOKENS)
    assert grown.room.slack_bytes(4) == 0


def test_what_is_held_for_nothing_is_given_up_after_some_steps() -> None:
    grown = Rows(8, LONG_TOKENS, lambda: PLENTY)
    grown.leave([2, 5])
    assert grown.held_tokens == 8 * LONG_TOKENS
    for _ in range(2 * CHECK_STEPS):
        grown.step()
    assert grown.held_tokens <= 2 * MAX_HELD_SHARE * round_up(grown.end + 1)
    assert grown.slots.slots == [0, 1]


def test_gaps_are_closed_by_the_copy_of_growth(copied: list[int]) -> None:
    grown = Rows(4, STEP_TOKENS, lambda: 0)
    grown.leave([1, 3])
    copied.clear()
    grown.step()
    assert grown.slots.slots == [0, 1]
    assert sum(copied) == 2 * STEP_TOKENS * grown.token_bytes
    assert grown.layers[0].slots == 2


@pytest.mark.parametrize("has_holes", [False, True])
@pytest.mark.parametrize("rows", [4, 8, 32])
def test_short_answers_that_come_and_go_beside_long_ones_copy_little(
    rows: int, has_holes: bool, copied: list[int]
) -> None:
    grown = Rows(rows, STEP_TOKENS, lambda: PLENTY)
    steps = 0
    while steps < LONG_TOKENS:
        grown.join(STEP_TOKENS // 8)
        for _ in range(2):
            grown.step(has_holes=has_holes)
        grown.leave(list(range(rows)))
        for _ in range(27):
            grown.step(has_holes=has_holes)
        steps += 29
    own = rows * steps * (1 + has_holes) * grown.token_bytes
    assert 0 < sum(copied) <= SHARED_COPIES * own


def test_a_row_joins_beside_holes_without_a_copy(copied: list[int]) -> None:
    grown = Rows(8, STEP_TOKENS, lambda: PLENTY)
    grown.join(STEP_TOKENS // 8)
    grown.leave(list(range(8)))
    for _ in range(3):
        grown.step(has_holes=True)
    holes = grown.layers[0].positions.holes
    assert holes is not None
    copied.clear()
    grown.join(STEP_TOKENS // 8)
    assert copied == []
    assert grown.layers[0].positions.holes == (*holes, ())


def test_holes_are_closed_by_the_copy_of_growth(copied: list[int]) -> None:
    grown = Rows(8, STEP_TOKENS, lambda: PLENTY)
    [layer] = grown.layers
    grown.step(has_holes=True)
    capacity = layer.capacity
    while layer.end + 2 <= capacity:
        grown.step(has_holes=True)
    assert layer.positions.holes is not None
    copied.clear()
    grown.step()
    assert layer.capacity > capacity
    assert len(copied) == 1
    assert layer.positions.key == RowPositions(layer.positions.paddings).key


@pytest.mark.parametrize("event", ["join", "growth", "leave"])
def test_a_copy_takes_little_beside_what_is_held(
    event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_arrays, "MIN_COPIED_BYTES", 0)
    left = settled_bytes()
    layers, others = ([make_batch(rows) for _ in range(LAYERS)] for rows in (LAYERS, 1))
    layers, others = to_slots(layers), to_slots(others)
    mx.eval([layer.state for layer in (*layers, *others)])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    match event:
        case "join":
            extend_layers(layers, others, [LAYERS], 2 * LAYERS)
        case "growth":
            SlotRoom(lambda: PLENTY).make_place(layers, RowSlots(LAYERS), 1)
        case "leave":
            filter_layers(layers, range(1, LAYERS), MAX_HELD_SHARE)
    mx.eval([layer.state for layer in layers])
    held = sum(layer.nbytes for layer in layers)
    grown = max(mx.get_active_memory(), before)
    assert held > (before - left) / 2
    assert mx.get_peak_memory() - grown <= PEAK_SHARE * held


class Rows:
    """Rows of one layer, whose arrays are full, in the room of a batch."""

    def __init__(self, rows: int, tokens: int, spare_bytes: Callable[[], int]) -> None:
        array = mx.zeros((rows, 1, tokens, 1))
        cache = SlotKVCache(array, array, tokens, RowPositions([0] * rows))
        self.layers = [cache]
        self.slots = RowSlots(rows)
        self.room = SlotRoom(spare_bytes)
        self.token_bytes = 2 * array.dtype.size

    @property
    def end(self) -> int:
        return self.layers[0].end

    @property
    def held_tokens(self) -> int:
        """The tokens of all rows that there is room for."""
        return self.layers[0].slots * self.layers[0].capacity

    def step(self, *, has_holes: bool = False) -> None:
        """Append a token to each row; with holes two, of which the first row keeps one."""
        places = 2 if has_holes else 1
        self.room.make_place(self.layers, self.slots, places)
        new = mx.zeros((self.slots.width, 1, places, 1))
        self.layers[0].update_and_fetch(new, new)
        if has_holes and drop_tokens(self.layers, [1, *[0] * (self.slots.width - 1)]):
            self.room.note(self.layers)
        mx.eval(self.layers[0].state)

    def join(self, tokens: int) -> None:
        array = mx.zeros((1, 1, tokens, 1))
        row = SlotKVCache(array, array, tokens, RowPositions([0]))
        slots = self.slots.add(1)
        extend_layers(self.layers, [row], slots, self.room.slots_for(self.slots))
        self.room.note(self.layers)

    def leave(self, keep: list[int]) -> None:
        self.slots.keep(keep)
        filter_layers(self.layers, range(self.slots.width), self.room.max_share)
        self.room.note(self.layers)


def make_batch(rows: int) -> BatchKVCache:
    """Rows whose arrays are full."""
    caches = []
    for _ in range(rows):
        cache = KVCache()
        keys = mx.ones((1, HEADS, TOKENS, WIDTH))
        cache.update_and_fetch(keys, keys)
        caches.append(cache)
    return BatchKVCache.merge(caches)


def join(engine: Engine, id: int) -> int:
    """Add a row, and step until it decodes; the number of steps."""
    engine.insert(id, [id + 3, *PROMPT], MANY_TOKENS, make_row(GREEDY))
    steps = 1
    while not any(token.id == id for token in engine.step()):
        steps += 1
    return steps


def test_rows_that_join_are_held_twice_in_few_layers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_arrays, "MIN_COPIED_BYTES", 0)
    left = settled_bytes()
    layers, others = ([make_batch(rows) for _ in range(LAYERS)] for rows in (1, LAYERS))
    layers, others = to_slots(layers), to_slots(others)
    mx.eval([layer.state for layer in (*layers, *others)])
    mx.clear_cache()
    mx.reset_peak_memory()
    extend_layers(layers, others, range(1, 1 + LAYERS))
    mx.eval([layer.state for layer in layers])
    held = sum(layer.nbytes for layer in layers)
    # The caller holds the caches that have joined, as a batch does.
    assert len(others) == LAYERS
    assert mx.get_peak_memory() - left <= (1 + PEAK_SHARE) * held
