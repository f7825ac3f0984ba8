"""Prefixes on disk survive a restart of the worker, and a bad file is never an error."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import KVCache
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.models.hybrid import make_hybrid
from worker.cache.cache_folder import SUBFOLDER
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.cache.serialization import SerializedNode
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0)
PLENTY_BYTES = 1 << 30
PROMPT = random.Random(3).choices(range(10, 500), k=120)
SYSTEM_TOKENS = 60
KEY = "model"


@pytest.fixture(params=["llama", "gemma", "hybrid"])
def model(request: pytest.FixtureRequest, model_paths: dict[str, Path]) -> nn.Module:
    if request.param == "hybrid":
        return make_hybrid()
    loaded, _ = load_model(model_paths[request.param])
    return loaded


@pytest.fixture
def llama(llama_path: Path) -> nn.Module:
    loaded, _ = load_model(llama_path)
    return loaded


class Run:
    """One run of a worker over a folder: an engine with a prompt cache that starts empty."""

    def __init__(self, model: nn.Module, folder: Path, limit_bytes: int = PLENTY_BYTES) -> None:
        self.store = DiskStore(folder, limit_bytes)
        self._engine = Engine(
            model,
            max_running=4,
            prefill=PrefillLimits(max_tokens=64),
            name=KEY,
            prompt_cache=PrefixCache(PLENTY_BYTES, self.store),
        )

    def answer(self, prompt: list[int]) -> tuple[int, list[int]]:
        """The number of the prompt's cached tokens, and twelve tokens of the answer."""
        self.store.fetch(KEY, prompt)
        cached = self._engine.insert(0, list(prompt), 12, make_row(GREEDY), [SYSTEM_TOKENS])
        tokens = []
        while len(self._engine):
            tokens += [token.token for token in self._engine.step()]
        return cached, tokens

    def end(self) -> None:
        self.store.close()


def files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_the_first_request_after_a_restart_continues_from_the_files(
    model: nn.Module, tmp_path: Path
) -> None:
    first = Run(model, tmp_path)
    _, answer = first.answer(PROMPT)
    longer = PROMPT + answer + [11, 12, 13]
    other = PROMPT[:SYSTEM_TOKENS] + [9] * 10
    expected = Run(model, tmp_path / "elsewhere")
    first.end()

    second = Run(model, tmp_path)
    assert second.answer(longer) == (len(longer) - 3, expected.answer(longer)[1])
    assert second.answer(PROMPT)[1] == answer
    second.end()

    third = Run(model, tmp_path)
    cached, tokens = third.answer(other)
    assert SYSTEM_TOKENS <= cached < SYSTEM_TOKENS + 2
    assert tokens == expected.answer(other)[1]
    third.end()
    expected.end()


def test_prompts_that_differ_in_the_middle_of_a_node_are_all_found_again(
    model: nn.Module, tmp_path: Path
) -> None:
    other = PROMPT[:90] + [7] * 40
    third = PROMPT[:75] + [8] * 40
    prompts = (PROMPT, other, third)
    first = Run(model, tmp_path)
    answers = [first.answer(prompt)[1] for prompt in prompts]
    first.end()
    for prompt, answer in zip(prompts, answers, strict=True):
        run = Run(model, tmp_path)
        assert run.answer(prompt) == (len(prompt) - 1, answer)
        run.end()


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_file_is_ignored_with_a_warning(
    llama: nn.Module, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(llama, tmp_path)
    _, answer = run.answer(PROMPT)
    run.end()
    for path in files_in(tmp_path):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(
            {
                "cut": bytes(content[: len(content) // 2]),
                "flipped": bytes(content),
                "emptied": b"",
                "foreign": b"not a tensor in sight",
            }[damage]
        )
    again = Run(llama, tmp_path)
    assert again.answer(PROMPT) == (0, answer)
    again.end()
    assert "is ignored" in caplog.text


def test_a_file_with_an_unknown_cache_class_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = list(range(20))
    layers = [{"kind": "UnknownCache", "leaves": {"": {"value": 1}}}]
    store = DiskStore(tmp_path, PLENTY_BYTES)
    store.put(KEY, tokens, SerializedNode(0, 20, layers, {}))
    store.close()

    again = DiskStore(tmp_path, PLENTY_BYTES)
    again.fetch(KEY, [*tokens, 5])
    assert PrefixCache(PLENTY_BYTES, again).find(KEY, [*tokens, 5]).length == 0
    again.close()
    assert "UnknownCache" in caplog.text


def test_other_files_in_the_folder_are_kept_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = tmp_path / SUBFOLDER / "notes"
    DiskStore(tmp_path, 0).close()
    notes.mkdir()
    (notes / "mine.txt").write_text("keep me")
    DiskStore(tmp_path, 0).close()
    assert (notes / "mine.txt").read_text() == "keep me"
    assert "mine.txt is not a cache file" in caplog.text


def test_the_files_never_exceed_the_limit(llama: nn.Module, tmp_path: Path) -> None:
    limit = 200_000
    run = Run(llama, tmp_path, limit)
    rng = random.Random(1)
    for _ in range(30):
        run.answer(rng.choices(range(10, 500), k=rng.randrange(20, 150)))
        assert run.store.nbytes <= limit
    run.end()
    used = sum(path.stat().st_size for path in files_in(tmp_path))
    assert limit / 2 < used <= limit
    smaller = DiskStore(tmp_path, limit // 4)
    smaller.close()
    assert sum(path.stat().st_size for path in files_in(tmp_path)) <= limit // 4


def test_half_precision_is_restored_bit_for_bit(tmp_path: Path) -> None:
    tokens = list(range(20))
    keys = mx.random.normal((1, 2, 20, 8)).astype(mx.bfloat16)
    layer = KVCache()
    layer.update_and_fetch(keys, keys * 2)
    store = DiskStore(tmp_path, PLENTY_BYTES)
    cache = PrefixCache(PLENTY_BYTES, store)
    cache.insert(KEY, tokens, [layer])
    cache.write()
    store.close()

    again = DiskStore(tmp_path, PLENTY_BYTES)
    again.fetch(KEY, [*tokens, 5])
    prefix = PrefixCache(PLENTY_BYTES, again).find(KEY, [*tokens, 5])
    again.close()
    assert prefix.length == 20
    assert mx.array_equal(prefix.layers[0].keys, keys)
    assert mx.array_equal(prefix.layers[0].values, keys * 2)


def test_a_long_chain_of_files_is_restored_whole(llama: nn.Module, tmp_path: Path) -> None:
    first, prompt = Run(llama, tmp_path), list(PROMPT)
    for turn in range(25):
        _, answer = first.answer(prompt)
        prompt += [*answer, turn + 10, 7]
    first.end()
    assert len(list(files_in(tmp_path))) > 40
    second = Run(llama, tmp_path)
    assert second.answer(prompt)[0] >= len(prompt) - 3
    second.end()


def test_a_prompt_that_parts_inside_a_file_uses_what_it_has_in_common(
    llama: nn.Module, tmp_path: Path
) -> None:
    first = Run(llama, tmp_path)
    _, answer = first.answer(PROMPT)
    first.answer([*PROMPT, *answer, *range(20, 80)])
    first.end()
    for parted in (30, 90, len(PROMPT) + len(answer) + 40):
        whole = [*PROMPT, *answer, *range(20, 80)]
        prompt = [*whole[:parted], 9, 8, 7, 9]
        second, cold = Run(llama, tmp_path), Run(llama, tmp_path / "cold")
        cached, tokens = second.answer(prompt)
        assert cached == parted
        assert tokens == cold.answer(prompt)[1]
        second.end()
        cold.end()


def test_what_is_read_for_one_prompt_is_not_taken_by_another(
    llama: nn.Module, tmp_path: Path
) -> None:
    first = Run(llama, tmp_path)
    first.answer(PROMPT)
    first.end()

    second = Run(llama, tmp_path)
    parting = [*PROMPT[:40], 9, 8, 7]
    second.store.fetch(KEY, parting)
    # It has not even its first token in common with the file, and is admitted before.
    assert second.answer([7] * 90)[0] == 0
    assert second.answer(parting)[0] == 40
    second.end()


def test_no_more_is_read_than_the_cache_in_memory_may_hold(
    llama: nn.Module, tmp_path: Path
) -> None:
    first = Run(llama, tmp_path)
    first.answer(PROMPT)
    first.answer([*PROMPT[:60], *PROMPT[:50]])
    first.end()
    store = DiskStore(tmp_path, PLENTY_BYTES)
    store.fetched_limit_bytes = 0
    store.fetch(KEY, PROMPT)
    assert store.take_fetched(KEY, PROMPT) == []
    store.fetched_limit_bytes = PLENTY_BYTES
    store.fetch(KEY, PROMPT)
    assert store.take_fetched(KEY, PROMPT)
    store.close()


def test_states_that_were_evicted_before_what_follows_are_read_again(
    tmp_path: Path,
) -> None:
    run = Run(make_hybrid(), tmp_path)
    run.answer(PROMPT)
    run.store.close()
    store = DiskStore(tmp_path, PLENTY_BYTES)
    cache = PrefixCache(PLENTY_BYTES, store)
    branch = [*PROMPT[:SYSTEM_TOKENS], 5, 6, 7]
    store.fetch(KEY, branch)
    assert cache.find(KEY, branch).length == SYSTEM_TOKENS
    cache.shrink(0)
    store.fetch(KEY, branch)
    assert cache.find(KEY, branch).length == SYSTEM_TOKENS
    store.close()
