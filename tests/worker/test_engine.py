"""The engine's tokens are those of mlx-lm's own `BatchGenerator`, and rows come and go freely."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model

from protocol.messages import FinishReason, Sampling
from tests.oracle import greedy_tokens, text_tokens
from worker.engine import Engine
from worker.sampling import Samplers

GREEDY = Sampling(seed=0, temperature=0.0)
TOKENS = 40
SAMPLERS = Samplers(10_000)


def make_engine(path: Path, stop: set[int] | None = None, **settings: int) -> Engine:
    model, _ = load_model(path)
    return Engine(
        model, stop or set(), **{"max_running": 16, "prefill_step_tokens": 32, **settings}
    )


def run(engine: Engine, rows: int) -> tuple[dict[int, list[int]], dict[int, FinishReason]]:
    """All tokens and the reasons, until this many rows have ended."""
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, FinishReason] = {}
    while len(reasons) < rows:
        for token in engine.step():
            tokens.setdefault(token.id, []).append(token.token)
            if token.reason is not None:
                reasons[token.id] = token.reason
    return tokens, reasons


def prompts(path: Path) -> Iterator[list[int]]:
    """Prompts shorter and longer than a slice of prefill."""
    for n in range(12):
        yield text_tokens(path, f"Prompt {n} " + "and more " * (n * 3))


def test_tokens_are_those_of_mlx_lms_batch_generator(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        engine = make_engine(path)
        model, _ = load_model(path)
        theirs = BatchGenerator(model, prefill_step_size=32, max_tokens=TOKENS)
        uids = theirs.insert(list(prompts(path)))
        for id, prompt in enumerate(prompts(path)):
            engine.insert(id, prompt, TOKENS, SAMPLERS.row(GREEDY, 0))
        expected: dict[int, list[int]] = {uid: [] for uid in uids}
        while any(len(tokens) < TOKENS for tokens in expected.values()):
            for response in theirs.next_generated():
                expected[response.uid].append(response.token)
        ours, _ = run(engine, len(uids))
        assert [ours[id] for id in range(len(uids))] == [expected[uid] for uid in uids]


def test_rows_that_come_and_go_at_random_change_no_others_tokens(llama_path: Path) -> None:
    chance = random.Random(3)
    engine = make_engine(llama_path, max_running=4)
    expected = [greedy_tokens(llama_path, prompt, TOKENS) for prompt in prompts(llama_path)]
    got: dict[int, list[int]] = {}
    waiting = list(enumerate(prompts(llama_path)))
    removed: set[int] = set()
    while waiting or len(engine):
        if waiting and chance.random() < 0.4:
            id, prompt = waiting.pop()
            engine.insert(id, prompt, TOKENS, SAMPLERS.row(GREEDY, 0))
        if got and chance.random() < 0.05:
            removed.add(gone := chance.choice(list(got)))
            engine.remove([gone, 999])
        for token in engine.step():
            assert token.id not in removed or len(got[token.id]) == TOKENS
            got.setdefault(token.id, []).append(token.token)
    assert removed
    for id, tokens in got.items():
        assert tokens == expected[id][: len(tokens)]
        assert len(tokens) == TOKENS or id in removed


def test_a_stop_token_ends_its_row_alone(llama_path: Path) -> None:
    first, second = list(prompts(llama_path))[:2]
    whole = greedy_tokens(llama_path, first, TOKENS)
    other = greedy_tokens(llama_path, second, TOKENS)
    stop = next(token for token in whole[5:] if token not in other)
    engine = make_engine(llama_path, {stop})
    for id, prompt in enumerate((first, second)):
        engine.insert(id, prompt, TOKENS, SAMPLERS.row(GREEDY, 0))
    tokens, reasons = run(engine, 2)
    assert reasons == {0: "stop", 1: "length"}
    assert tokens[0] == whole[: whole.index(stop) + 1]
    assert tokens[1] == other
    assert len(engine) == 0


def test_a_row_removed_in_prefill_never_gives_a_token(llama_path: Path) -> None:
    engine = make_engine(llama_path)
    long = text_tokens(llama_path, "long " * 200)
    engine.insert(1, long, TOKENS, SAMPLERS.row(GREEDY, 0))
    assert engine.step() == []
    engine.remove([1])
    assert len(engine) == 0
    engine.insert(2, long[:10], 3, SAMPLERS.row(GREEDY, 0))
    tokens, _ = run(engine, 1)
    assert tokens == {2: greedy_tokens(llama_path, long[:10], 3)}


def test_many_rows_leave_no_memory_behind(llama_path: Path) -> None:
    engine = make_engine(llama_path)

    def fill_and_empty() -> int:
        for id, prompt in enumerate(prompts(llama_path)):
            engine.insert(id, prompt, 5, SAMPLERS.row(GREEDY, 0))
        run(engine, 12)
        return mx.get_active_memory()

    first = fill_and_empty()
    assert max(fill_and_empty() for _ in range(20)) <= first * 1.01


@pytest.mark.skipif(not mx.metal.is_available(), reason="only Metal has a wired limit")
def test_no_wired_limit_is_left_set(llama_path: Path) -> None:
    before = mx.set_wired_limit(0)
    make_engine(llama_path)
    assert mx.set_wired_limit(before) == 0
