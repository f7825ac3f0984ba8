"""A look-up finds exactly the files of a prompt's prefixes, and asks the system nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cache.disk_store import DiskStore
from worker.cache.file_index import (
    BLOCK_TOKENS,
    HASH_BYTES,
    MAX_COMPARED_LENGTHS,
    FileIndex,
    NodeName,
    PrefixHashes,
    beginning_of,
    name_of,
    parse_name,
)

MODEL = "model"
TOKENS = [(7 * number) % 1000 for number in range(5 * BLOCK_TOKENS)]
LENGTHS = st.integers(1, len(TOKENS))


@given(st.sets(LENGTHS, max_size=20), st.sets(LENGTHS, max_size=20), LENGTHS)
def test_a_look_up_finds_the_files_of_all_proper_prefixes_and_no_others(
    own: set[int], others: set[int], length: int
) -> None:
    index = FileIndex()
    for size in own:
        index.add(name_of(MODEL, TOKENS[:size]), 1)
    for size in others:
        index.add(name_of(MODEL, [*TOKENS[: size - 1], 1001]), 1)
        index.add(name_of("other", TOKENS[:size]), 1)
    found = index.find(MODEL, PrefixHashes(TOKENS[:length]))
    assert found == [name_of(MODEL, TOKENS[:size]) for size in sorted(own) if size < length]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 600), st.integers(1, 50)), max_size=40))
def test_the_index_counts_what_is_in_it(changes: list[tuple[bool, int, int]]) -> None:
    index = FileIndex()
    expected: dict[NodeName, int] = {}
    for is_added, length, size in changes:
        name = name_of(MODEL, TOKENS[:length])
        if is_added:
            index.add(name, size)
            expected[name] = size
        else:
            index.remove(name)
            expected.pop(name, None)
    assert index.nbytes == sum(expected.values())
    assert set(index.find(MODEL, PrefixHashes(TOKENS))) == set(expected)
    assert set(index.list_oldest(index.nbytes + 1)) == set(expected)
    for name in expected:
        index.remove(name)
    assert (len(index), index.nbytes, index.find(MODEL, PrefixHashes(TOKENS))) == (0, 0, [])


def test_the_least_recently_used_files_are_removed_first() -> None:
    index = FileIndex()
    names = [name_of(MODEL, TOKENS[:length]) for length in range(1, 5)]
    for name in names:
        index.add(name, 10)
    index.touch(names[0])
    assert index.list_oldest(11) == names[1:3]
    assert index.list_oldest(0) == []


@given(LENGTHS)
def test_a_files_name_is_read_back(length: int) -> None:
    name = name_of(MODEL, TOKENS[:length])
    assert parse_name(MODEL, name.file_name()) == (name, None)
    assert parse_name(MODEL, f"{length}-{name.hash}.safetensors") is None


@given(LENGTHS, st.data())
def test_a_node_that_can_be_cut_is_found_by_where_it_begins(
    length: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    name, place = name_of(MODEL, TOKENS[:length]), beginning_of(TOKENS, start)
    assert parse_name(MODEL, name.file_name(place)) == (name, place)
    index = FileIndex()
    index.add(name, 10, place)
    other = PrefixHashes([*TOKENS[:start], -1, -1])
    assert index.find_beginning(MODEL, other, [0, start]) == [name]
    assert index.find_beginning("other", other, [0, start]) == []
    index.remove(name)
    assert index.find_beginning(MODEL, other, [0, start]) == []


@given(st.lists(LENGTHS, max_size=8))
def test_hashes_are_the_same_in_whatever_order_they_are_asked_for(lengths: list[int]) -> None:
    hashes = PrefixHashes(TOKENS)
    for length in lengths:
        assert hashes.hash(length) == PrefixHashes(TOKENS[:length]).hash(length)
        ids = np.array(TOKENS[:length], np.int32).tobytes()
        assert hashes.hash(length) == hashlib.blake2b(ids, digest_size=HASH_BYTES).hexdigest()


def test_many_files_cost_no_more_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    compute = PrefixHashes.hash

    def count(self: PrefixHashes, length: int) -> str:
        hashed.append(length)
        return compute(self, length)

    index = FileIndex()
    for number in range(20_000):
        # Files of other prompts, of every length.
        length = BLOCK_TOKENS + number % 4000
        index.add(NodeName(MODEL, length, f"{number:016x}", f"{number:032x}"), 1)
    monkeypatch.setattr(PrefixHashes, "hash", count)
    assert index.find(MODEL, PrefixHashes(TOKENS)) == []
    assert len(hashed) == len(TOKENS) / BLOCK_TOKENS


def test_files_that_share_a_beginning_are_compared_up_to_a_limit() -> None:
    index = FileIndex()
    tokens = TOKENS * 2
    for length in range(1, len(tokens)):
        index.add(name_of(MODEL, tokens[:length]), 1)
    assert len(index.find(MODEL, PrefixHashes(tokens))) == MAX_COMPARED_LENGTHS


def test_a_look_up_makes_no_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path, 1 << 20)

    def refuse(name: str) -> Callable[..., object]:
        def fail(*args: object, **kwargs: object) -> object:
            raise AssertionError(f"os.{name} is called")

        return fail

    with monkeypatch.context() as patched:
        for name in ("scandir", "listdir", "stat", "lstat", "open", "statvfs"):
            patched.setattr(os, name, refuse(name))
        store.fetch(MODEL, TOKENS)
        assert store.take_fetched(MODEL, TOKENS) == []
    store.close()
