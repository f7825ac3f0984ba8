"""KV caches are reserved as they are held: padded in a batch, and not padded for rows alone."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from worker.cache.prefix_cache import PrefixCache
from worker.memory.accounting import KVReservations, MemoryAccount
from worker.memory.budget import Budget
from worker.memory.kv_cost import KVCost, LayerCost

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


def test_the_prompt_cache_makes_room_for_the_slack_of_batches() -> None:
    account = MemoryAccount(Budget(limit=1 << 20, base=0, prefill=0), PrefixCache(1 << 20))
    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, 1, 8, 1)), mx.ones((1, 1, 8, 1)))
    account.prompt_cache.insert("m", list(range(8)), [cache])
    cached_bytes = account.prompt_cache.nbytes
    account.fit_prompt_cache(account.available_bytes - cached_bytes)
    assert account.prompt_cache.nbytes == cached_bytes > 0
    account.fit_prompt_cache(account.available_bytes - cached_bytes + 1)
    assert account.prompt_cache.nbytes == 0
