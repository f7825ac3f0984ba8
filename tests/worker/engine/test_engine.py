"""The engine's tokens are those of mlx-lm's own generator, also while rows join and leave."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.utils import load_model

from protocol.events import FinishReason
from protocol.messages import Sampling
from tests.device_memory import settled_bytes
from tests.oracle import greedy_tokens, text_tokens
from worker.engine import engine as engine_module
from worker.engine.batches import decode_groups as groups
from worker.engine.bitmask import BitMask
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillBudget, PrefillLimits
from worker.engine.rows.row_generator import RowBatchGenerator
from worker.engine.sampler import make_row
from worker.memory.budget import weight_bytes_of
from worker.memory.kv_cost import probe

GREEDY = Sampling(seed=0, temperature=0.0)
TOKENS = 40
RECOMMENDED_BYTES = 1 << 34
MIXED = [
    GREEDY,
    Sampling(1, 1.0),
    Sampling(2, 0.7, top_p=0.9),
    Sampling(3, 1.2, top_k=30, min_p=0.01),
    Sampling(0, 0.0, presence_penalty=1.5),
    Sampling(4, 1.0, frequency_penalty=0.5, top_p=0.8),
    Sampling(0, 0.0, repetition_penalty=1.3, logit_bias={17: 4.0}),
    Sampling(5, 1.0, logit_bias={3: 100.0, 4: -100.0}, min_tokens=7),
    Sampling(6, 0.9, ignore_eos=True, stop_tokens=[40], frequency_penalty=-1.0),
]


def make_engine(path: Path, *, max_running: int = 16, prefill_step_tokens: int = 32) -> Engine:
    model, _ = load_model(path)
    return Engine(
        model, max_running=max_running, prefill=PrefillLimits(max_tokens=prefill_step_tokens)
    )


def run(engine: Engine, rows: int) -> tuple[dict[int, list[int]], dict[int, FinishReason]]:
    """All tokens and the finish reasons, until this many rows have ended."""
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, FinishReason] = {}
    while len(reasons) < rows:
        for token in engine.step():
            tokens.setdefault(token.id, []).append(token.token)
            if token.reason is not None:
                reasons[token.id] = token.reason
    return tokens, reasons


def prompts(path: Path) -> Iterator[list[int]]:
    """Prompts shorter and longer than a chunk of prefill."""
    for n in range(12):
        yield text_tokens(path, f"Prompt {n} " + "and more " * (n * 3))


def test_tokens_are_those_of_mlx_lms_batch_generator(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        engine = make_engine(path)
        model, _ = load_model(path)
        theirs = BatchGenerator(model, prefill_step_size=32, max_tokens=TOKENS)
        uids = theirs.insert(list(prompts(path)))
        for id, prompt in enumerate(prompts(path)):
            engine.insert(id, prompt, TOKENS, make_row(GREEDY))
        expected: dict[int, list[int]] = {uid: [] for uid in uids}
        while any(len(tokens) < TOKENS for tokens in expected.values()):
            for response in theirs.next_generated():
                expected[response.uid].append(response.token)
        ours, _ = run(engine, len(uids))
        assert [ours[id] for id in range(len(uids))] == [expected[uid] for uid in uids]


def test_rows_that_join_and_leave_at_random_do_not_change_the_tokens_of_others(
    llama_path: Path,
) -> None:
    rng = random.Random(3)
    engine = make_engine(llama_path, max_running=4)
    expected = [greedy_tokens(llama_path, prompt, TOKENS) for prompt in prompts(llama_path)]
    got: dict[int, list[int]] = {}
    waiting = list(enumerate(prompts(llama_path)))
    removed: set[int] = set()
    while waiting or len(engine):
        if waiting and rng.random() < 0.4:
            id, prompt = waiting.pop()
            engine.insert(id, prompt, TOKENS, make_row(GREEDY))
        if got and rng.random() < 0.05:
            removed.add(id := rng.choice(list(got)))
            engine.remove([id, 999])
        for token in engine.step():
            assert token.id not in removed or len(got[token.id]) == TOKENS
            got.setdefault(token.id, []).append(token.token)
    assert removed
    for id, tokens in got.items():
        assert tokens == expected[id][: len(tokens)]
        assert len(tokens) == TOKENS or id in removed


@pytest.mark.parametrize(
    "family", ["gemma", *(pytest.param(each, marks=pytest.mark.long) for each in ("llama", "qwen"))]
)
def test_rows_in_separate_decode_batches_draw_the_tokens_that_they_draw_alone(
    family: str, model_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    path = model_paths[family]
    model, _ = load_model(path)
    # Any padding then costs more than another pass.
    monkeypatch.setattr(groups, "PASS_BYTES", 1 - weight_bytes_of(model))
    engine = Engine(model, max_running=8, prefill=PrefillLimits(max_tokens=512))
    waiting = [text_tokens(path, "more " * rng.choice([9, 200, 600])) for _ in range(16)]
    expected = dict(enumerate(greedy_tokens(path, prompt, TOKENS) for prompt in waiting))
    got: dict[int, list[int]] = {}
    while waiting or len(engine):
        if waiting and rng.random() < 0.2:
            engine.insert(len(waiting) - 1, waiting.pop(), TOKENS, make_row(GREEDY))
        if got and rng.random() < 0.03:
            engine.remove([rng.choice(list(got))])
        for token in engine.step():
            got.setdefault(token.id, []).append(token.token)
    assert len(got) == len(expected)
    for id, tokens in got.items():
        assert tokens == expected[id][: len(tokens)]
    assert sum(len(tokens) == TOKENS for tokens in got.values()) > 8


def test_a_long_row_adds_no_padding_to_the_short_rows_beside_it(llama_path: Path) -> None:
    engine = make_engine(llama_path, prefill_step_tokens=512)
    for id, prompt in enumerate(prompts(llama_path)):
        engine.insert(id, prompt, 200, make_row(GREEDY))
    while len(engine.step()) < 12:
        pass
    long = text_tokens(llama_path, "more " * 3000)
    cost = engine.kv_cost
    before = settled_bytes()
    engine.insert(99, long, 100, make_row(GREEDY))
    while not any(token.id == 99 for token in engine.step()):
        pass
    engine.step()
    grown = mx.get_active_memory() - before
    assert grown < 2 * cost.batch_bytes(1, len(long))
    assert cost.batch_bytes(13, len(long)) > 6 * grown


def test_a_stop_token_ends_only_its_row(llama_path: Path) -> None:
    first, second = list(prompts(llama_path))[:2]
    whole = greedy_tokens(llama_path, first, TOKENS)
    other = greedy_tokens(llama_path, second, TOKENS)
    stop = next(token for token in whole[5:] if token not in other)
    engine = make_engine(llama_path)
    for id, prompt in enumerate((first, second)):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY, {stop}))
    tokens, reasons = run(engine, 2)
    assert reasons == {0: "stop", 1: "length"}
    assert tokens[0] == whole[: whole.index(stop) + 1]
    assert tokens[1] == other
    assert len(engine) == 0


def test_rows_with_different_parameters_draw_in_one_batch_what_each_draws_alone(
    llama_path: Path,
) -> None:
    prompt = next(prompts(llama_path))
    engine = make_engine(llama_path)
    for id, sampling in enumerate(MIXED):
        engine.insert(id, prompt, TOKENS, make_row(sampling, {5, 9}, prompt=prompt))
    together, _ = run(engine, len(MIXED))
    for id, sampling in enumerate(MIXED):
        engine.insert(id, prompt, TOKENS, make_row(sampling, {5, 9}, prompt=prompt))
        assert run(engine, 1)[0][id] == together[id]
    assert len({tuple(tokens) for tokens in together.values()}) == len(MIXED)


def test_the_repetition_penalty_is_that_of_mlx_lm(llama_path: Path) -> None:
    model, _ = load_model(llama_path)
    theirs = BatchGenerator(model, max_tokens=TOKENS)
    engine = make_engine(llama_path)
    for id, prompt in enumerate(prompts(llama_path)):
        processors = make_logits_processors(repetition_penalty=1.5, repetition_context_size=4096)
        theirs.insert([prompt], logits_processors=[processors])
        sampling = Sampling(0, 0.0, repetition_penalty=1.5)
        engine.insert(id, prompt, TOKENS, make_row(sampling, prompt=prompt))
    expected: dict[int, list[int]] = {}
    while sum(map(len, expected.values())) < 12 * TOKENS:
        for response in theirs.next_generated():
            expected.setdefault(response.uid, []).append(response.token)
    assert run(engine, 12)[0] == expected


class Alternating:
    """Allows even tokens after odd ones and odd ones after even ones; fails after `fail_after`."""

    complete = False

    def __init__(self, fail_after: int = 1000) -> None:
        self._seen = 0
        self._last = 0
        self._fail_after = fail_after

    def accept(self, token: int) -> None:
        assert token % 2 != self._last % 2
        self._last = token
        self._seen += 1
        if self._seen == self._fail_after:
            raise ValueError("seen enough")

    def mask(self) -> BitMask:
        word = 0x55555555 if self._last % 2 else -0x55555556
        return np.full(40, word, np.int32)


def test_a_constraint_sees_each_token_before_the_next_is_drawn(llama_path: Path) -> None:
    constrained, plain = list(prompts(llama_path))[:2]
    engine = make_engine(llama_path)
    engine.insert(0, constrained, TOKENS, make_row(GREEDY, constraint=Alternating()))
    engine.insert(1, plain, TOKENS, make_row(GREEDY))
    tokens, _ = run(engine, 2)
    assert [token % 2 for token in tokens[0]] == [1, 0] * (TOKENS // 2)
    assert tokens[1] == greedy_tokens(llama_path, plain, TOKENS)


def test_the_error_of_a_constraint_is_returned_with_the_token_of_its_row_only(
    llama_path: Path,
) -> None:
    first, second = list(prompts(llama_path))[:2]
    engine = make_engine(llama_path)
    engine.insert(0, first, TOKENS, make_row(GREEDY, constraint=Alternating(fail_after=3)))
    engine.insert(1, second, TOKENS, make_row(GREEDY))
    faults: dict[int, list[str | None]] = {0: [], 1: []}
    while len(faults[1]) < TOKENS:
        for token in engine.step():
            faults[token.id].append(token.fault)
    assert faults[0][:4] == [None, None, "seen enough", "seen enough"]
    assert set(faults[1]) == {None}


def test_a_row_removed_in_prefill_draws_no_token(llama_path: Path) -> None:
    engine = make_engine(llama_path)
    long = text_tokens(llama_path, "long " * 200)
    engine.insert(1, long, TOKENS, make_row(GREEDY))
    assert engine.step() == []
    engine.remove([1])
    assert len(engine) == 0
    engine.insert(2, long[:10], 3, make_row(GREEDY))
    tokens, _ = run(engine, 1)
    assert tokens == {2: greedy_tokens(llama_path, long[:10], 3)}


def test_ended_rows_free_their_memory(llama_path: Path) -> None:
    engine = make_engine(llama_path)

    def run_all() -> int:
        for id, prompt in enumerate(prompts(llama_path)):
            engine.insert(id, prompt, 5, make_row(GREEDY))
        run(engine, 12)
        # The device may still compute the step after the last one.
        mx.synchronize()
        return mx.get_active_memory()

    # Slices follow the measured speed, so that what is left of the last step differs a little.
    first = max(run_all() for _ in range(3))
    assert min([run_all() for _ in range(8)][-5:]) <= first * 1.01


def test_generation_and_the_prompt_cache_use_one_stream(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[object] = []
    enter = mx.stream

    def record(stream: mx.Stream) -> object:
        used.append(stream)
        return enter(stream)

    monkeypatch.setattr(mx, "stream", record)
    engine = make_engine(llama_path)
    for id, prompt in enumerate(prompts(llama_path)):
        engine.insert(id, prompt, 5, make_row(GREEDY))
    run(engine, 12)
    assert used
    # What the engine does with caches between the steps is on the default stream.
    assert set(map(str, used)) == {str(mx.default_stream(mx.default_device()))}


def test_freed_buffers_are_returned_once_the_last_row_has_ended(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_then: list[int] = []
    engine = make_engine(llama_path)
    monkeypatch.setattr(engine_module, "clear_buffer_cache", lambda: rows_then.append(len(engine)))
    for id, prompt in enumerate(prompts(llama_path)):
        engine.insert(id, prompt, 5 + id, make_row(GREEDY))
    run(engine, 12)
    assert rows_then == [0]


@pytest.fixture
def wired_limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The wired limits that are set, on a device that recommends one, as Metal does."""
    limits: list[int] = []

    def set_wired_limit(limit: int) -> int:
        limits.append(limit)
        return 0

    gc.collect()  # generators of other tests restore their limits now, not in this test
    info = mx.device_info() | {"max_recommended_working_set_size": RECOMMENDED_BYTES}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "set_wired_limit", set_wired_limit)
    return limits


def test_loading_generating_and_closing_leave_the_wired_limit_alone(
    llama_path: Path, wired_limits: list[int]
) -> None:
    engine = make_engine(llama_path)
    engine.insert(0, next(prompts(llama_path)), 3, make_row(GREEDY))
    run(engine, 1)
    del engine
    gc.collect()
    assert wired_limits == []


def test_mlx_lms_own_generator_sets_the_wired_limit_and_restores_it(
    llama_path: Path, wired_limits: list[int]
) -> None:
    make_engine(llama_path)
    model, _ = load_model(llama_path)
    BatchGenerator(model).close()
    assert wired_limits == [RECOMMENDED_BYTES, 0]


def test_a_generator_that_cannot_be_made_leaves_the_wired_limit_alone(
    llama_path: Path, wired_limits: list[int]
) -> None:
    model, _ = load_model(llama_path)
    padding = groups.PaddingCost(probe(model, 32), weight_bytes_of(model))
    with pytest.raises(TypeError):
        RowBatchGenerator(model, padding, PrefillBudget(PrefillLimits(32)), no_such_setting=1)
    gc.collect()
    assert wired_limits == []
    BatchGenerator(model).close()
    assert wired_limits == [RECOMMENDED_BYTES, 0]


@pytest.mark.skipif(not mx.metal.is_available(), reason="only Metal has a wired limit")
def test_no_wired_limit_is_left_set(llama_path: Path) -> None:
    before = mx.set_wired_limit(0)
    make_engine(llama_path)
    assert mx.set_wired_limit(before) == 0


def test_a_short_prompt_does_not_wait_for_a_long_one_and_the_long_one_goes_on(
    llama_path: Path,
) -> None:
    engine = make_engine(llama_path, prefill_step_tokens=32)
    engine.insert(0, random.Random(0).choices(range(10, 900), k=1500), 1, make_row(GREEDY))
    engine.step()
    ended: list[int] = []
    for id in range(1, 40):
        engine.insert(id, random.Random(id).choices(range(10, 900), k=40), 1, make_row(GREEDY))
        ended += [token.id for token in engine.step()]
    while len(ended) < 40:
        ended += [token.id for token in engine.step()]
    assert ended[-1] == 0
    assert sorted(ended) == list(range(40))


def test_the_oldest_prompt_gets_its_turn_however_many_shorter_ones_arrive(
    llama_path: Path,
) -> None:
    engine = make_engine(llama_path, prefill_step_tokens=32)
    engine.insert(0, random.Random(0).choices(range(10, 900), k=300), 1, make_row(GREEDY))
    ended: list[int] = []
    for id in range(1, 1000):
        engine.insert(id, random.Random(id).choices(range(10, 900), k=60), 1, make_row(GREEDY))
        ended += [token.id for token in engine.step()]
        if 0 in ended:
            break
    assert 0 in ended
