"""The prompt cache finds the longest cached prefix and keeps its limit."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache, RotatingKVCache

from worker.cache.prefix_cache import Prefix, PrefixCache
from worker.cache.radix_node import RadixNode

WIDTH = 4
PLENTY_BYTES = 1 << 30
SPARE_CALLS = 100
TOKEN_BYTES = 2 * WIDTH * 4  # keys and values of one token of one layer in 32 bits

Tokens = list[int]
prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=20)


def plain(tokens: Tokens) -> KVCache:
    """A layer whose keys at each position repeat that position's token."""
    cache = KVCache()
    cache.update_and_fetch(
        *[mx.array(tokens, mx.float32)[None, None, :, None] * ones() for _ in "kv"]
    )
    return cache


def ones() -> mx.array:
    return mx.ones((1, 1, 1, WIDTH))


def rotating(tokens: Tokens) -> RotatingKVCache:
    cache = RotatingKVCache(max_size=4)
    for token in tokens:
        cache.update_and_fetch(*[mx.full((1, 1, 1, WIDTH), float(token)) for _ in "kv"])
    return cache


def tokens_in(prefix: Prefix, layer: int = 0) -> Tokens:
    """The tokens of the keys in a prefix's plain layer."""
    keys, values = prefix.layers[layer].keys_and_values()
    assert mx.array_equal(keys, values)
    return [int(key[0]) for key in keys[0, 0].tolist()]


@contextmanager
def few_calls() -> Iterator[None]:
    """Let calls lie `SPARE_CALLS` deeper than here, and no deeper."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + SPARE_CALLS)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def shared(one: Tokens, other: Tokens) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@given(prompts)
def test_a_plain_cache_finds_the_longest_cached_prefix_without_the_last_token(
    seen: list[Tokens],
) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    for number, tokens in enumerate(seen):
        prefix = cache.find("m", tokens)
        longest = max((shared(tokens, earlier) for earlier in seen[:number]), default=0)
        assert prefix.length == min(longest, len(tokens) - 1)
        if prefix.length:
            assert tokens_in(prefix) == tokens[: prefix.length]
        cache.insert("m", tokens, [plain(tokens)])


@given(prompts)
def test_a_common_prefix_is_held_once(seen: list[Tokens]) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    for tokens in seen:
        cache.insert("m", tokens, [plain(tokens)])
    distinct = {tuple(tokens[: n + 1]) for tokens in seen for n in range(len(tokens))}
    assert cache.nbytes == len(distinct) * TOKEN_BYTES


@given(prompts, st.integers(0, 30))
def test_every_insert_keeps_the_limit_and_the_prefix_used_last(
    seen: list[Tokens], limit_tokens: int
) -> None:
    cache = PrefixCache(limit_tokens * TOKEN_BYTES)
    for tokens in seen:
        cache.insert("m", tokens, [plain(tokens)])
        assert cache.nbytes <= limit_tokens * TOKEN_BYTES
        if len(tokens) <= limit_tokens:
            assert cache.find("m", [*tokens, 0]).length == len(tokens)


@given(prompts)
def test_shrinking_to_zero_evicts_everything(seen: list[Tokens]) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    for tokens in seen:
        cache.insert("m", tokens, [plain(tokens)])
    cache.shrink(0)
    assert cache.nbytes == 0
    assert all(cache.find("m", tokens).length == 0 for tokens in seen)


@given(prompts)
def test_a_state_that_cannot_be_cut_is_reused_only_where_it_was_saved(seen: list[Tokens]) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    for number, tokens in enumerate(seen):
        prefix = cache.find("m", tokens)
        whole = [
            len(earlier)
            for earlier in seen[:number]
            if len(earlier) < len(tokens) and tokens[: len(earlier)] == earlier
        ]
        assert prefix.length == max(whole, default=0)
        if prefix.length:
            assert tokens_in(prefix) == tokens[: prefix.length]
            assert prefix.layers[1].offset == prefix.length
            window = prefix.layers[1]
            held = window.keys[0, 0, : window.size(), 0].tolist()
            assert sorted(held) == sorted(tokens[: prefix.length][-4:])
        cache.insert("m", tokens, [plain(tokens), rotating(tokens)])


def test_models_share_the_limit_but_no_prefixes() -> None:
    cache = PrefixCache(6 * TOKEN_BYTES)
    cache.insert("one", [1, 2, 3, 4], [plain([1, 2, 3, 4])])
    assert cache.find("two", [1, 2, 3, 4]).length == 0
    cache.insert("two", [1, 2, 3, 4], [plain([1, 2, 3, 4])])
    assert cache.nbytes == 4 * TOKEN_BYTES
    assert cache.find("one", [1, 2, 3, 4]).length == 0


def test_dropping_a_model_frees_its_bytes_and_keeps_the_others() -> None:
    cache = PrefixCache(PLENTY_BYTES)
    long = list(range(2 * SPARE_CALLS))
    for end in range(1, len(long)):  # one node each
        cache.insert("one", long[:end], [plain(long[:end])])
    cache.insert("two", [1, 2], [plain([1, 2])])
    with few_calls():
        cache.drop("one")
    cache.drop("never loaded")
    assert cache.nbytes == 2 * TOKEN_BYTES
    assert cache.find("two", [1, 2, 3]).length == 2


def test_live_conversations_do_not_evict_each_other_while_the_limit_holds() -> None:
    system = list(range(100))
    turns: dict[int, Any] = {number: [*system, 1000 + number] for number in range(20)}
    cache = PrefixCache((100 + 20 * 11) * TOKEN_BYTES)
    for turn in range(10):
        for tokens in turns.values():
            assert cache.find("m", tokens).length >= (len(tokens) - 1 if turn else 0)
            cache.insert("m", tokens, [plain(tokens)])
            tokens.append(turn)


def test_an_error_about_a_node_does_not_show_its_prompt() -> None:
    assert "48611" not in str(KeyError(RadixNode(None, [48611], [])))
