"""KV caches are reserved as they are held: padded in a batch, and not padded for rows alone."""

from __future__ import annotations

from worker.cache.kv_cost import KVCost, LayerCost
from worker.memory.accounting import KVReservations

COST = KVCost([LayerCost(row_bytes=0, token_bytes=10.0, window_tokens=0)], 512)


def test_rows_of_a_batch_are_padded_to_the_longest() -> None:
    kv = KVReservations(COST)
    kv.reserve(1, 256)
    kv.reserve(2, 1024)
    assert kv.reserved_bytes == 2 * 10_240
    kv.release([2])
    assert kv.reserved_bytes == 2560


def test_rows_alone_are_not_padded() -> None:
    kv = KVReservations(COST, alone=True)
    kv.reserve(1, 256)
    assert kv.additional_bytes(2, 1024) == 10_240
    kv.reserve(2, 1024)
    assert kv.reserved_bytes == 2560 + 10_240


def test_the_padding_is_reserved_once_the_rows_share_a_batch() -> None:
    kv = KVReservations(COST, alone=True)
    kv.reserve(1, 256)
    kv.reserve(2, 1024)
    kv.set_alone(False)
    assert kv.reserved_bytes == 2 * 10_240
