"""A model is checked when it is loaded, once for its content, and the result is in its state."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from protocol.batching import BatchRules
from protocol.events import Finished, Rejected, Started
from protocol.messages import ModelSource, Sampling, Step, Submit, TokenPrompt
from tests.models import unbatched
from tests.worker.driver import (
    AfterStep,
    events_of,
    make_config_loader,
    make_configure,
    run_loop,
    tokens_of,
)
from worker.cache.disk_store import DiskStore
from worker.engine.engine import Engine
from worker.intake.prepared import PreparedRequest, prepare
from worker.models import weight_loader
from worker.models.model_config import LoadError
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedModel
from worker.selfcheck import load_check, model_check
from worker.selfcheck.model_check import ModelCheck

# A check of a tiny model ends long before, also in a share of the time.
MOST_REQUESTS = 2000
LONG_ANSWER_TOKENS = 300
PROMPT_TOKENS = 57
CACHE_BYTES = 1 << 28
# How far the clock goes on each time that it is read.
TICK_S = 0.05


def load(*paths: Path, folder: Path | None = None) -> ModelPool:
    configure = make_configure([ModelSource(path.name, str(path)) for path in paths])
    configure = msgspec.structs.replace(configure, prompt_cache_bytes=CACHE_BYTES)
    disk_store = None if folder is None else DiskStore(folder, 1 << 30)
    pool = ModelPool(configure, make_config_loader(), disk_store=disk_store)
    pool.load_all()
    if disk_store is not None:
        disk_store.close()
    return pool


def refuse_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> ModelCheck:
        raise AssertionError("no check is needed")

    monkeypatch.setattr(load_check, "ModelCheck", refuse)


def end_loads_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks have no time during loads."""
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)


def greedy(path: Path, id: int, tokens: int = 8) -> Submit:
    prompt = TokenPrompt([*range(3, 3 + PROMPT_TOKENS)])
    return Submit(id, path.name, prompt, Sampling(seed=0, temperature=0.0), tokens)


def one_for_each(model: LoadedModel, sent: list[int], goes_on: Callable[[], bool]) -> AfterStep:
    """Sends one more request for each that has ended, and adds its id to `sent`."""

    def follow(step: Step) -> Iterable[PreparedRequest | Rejected]:
        ended = sum(isinstance(event, Finished) for event in step.events)
        for _ in range(ended if goes_on() and len(sent) < MOST_REQUESTS else 0):
            sent.append(len(sent))
            yield prepare(model.config, greedy(model.config.path, sent[-1]))

    return follow


@pytest.fixture(scope="module")
def mamba_path(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unbatched.make("mamba", tmp_path_factory.mktemp("models") / "tiny-mamba")


def test_the_state_and_the_log_say_what_is_not_shared_and_why(
    llama_path: Path, mamba_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pool = load(llama_path, mamba_path)
    llama, mamba = pool.states()
    assert llama.rules == BatchRules()
    assert mamba.rules is not None
    assert mamba.rules.batching == "decode"
    assert f"tiny-mamba: {mamba.rules.findings[0]}" in caplog.text
    assert "tiny-llama" not in caplog.text


def test_a_result_is_kept_beside_the_prompt_cache_and_found_again(
    mamba_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(mamba_path, folder=tmp_path).states()
    refuse_checks(monkeypatch)
    again = load(mamba_path, folder=tmp_path).states()
    assert again[0].rules == first[0].rules
    with pytest.raises(LoadError, match="no check is needed"):
        load(mamba_path, folder=tmp_path / "other")


def test_a_check_that_takes_too_long_goes_on_while_the_model_is_idle(
    mamba_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_loads_first(monkeypatch)
    pool = load(mamba_path, folder=tmp_path)
    [state] = pool.states()
    assert state.rules is not None
    assert (state.rules.batching, state.rules.unchecked != []) == ("none", True)
    end_checks(pool)
    [state] = pool.states()
    assert state.rules is not None
    assert (state.rules.batching, state.rules.unchecked) == ("decode", [])
    refuse_checks(monkeypatch)
    [again] = load(mamba_path, folder=tmp_path).states()
    assert again.rules == state.rules


def test_a_check_goes_on_beside_requests_where_one_always_waits(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_loads_first(monkeypatch)
    pool = load(llama_path)
    model, sent = pool[llama_path.name], [0, 1]
    assert not model.rules.reuses_prefixes
    follow = one_for_each(model, sent, lambda: model.check is not None)
    first = [greedy(llama_path, id) for id in sent]
    steps = run_loop(pool, first, max_running=1, after_step=follow)
    assert model.check is None, len(sent)
    assert model.rules == BatchRules()
    assert len({tuple(tokens_of(steps, id)) for id in sent}) == 1


def test_what_a_check_has_found_is_applied_where_answers_always_overlap(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = greedy(llama_path, 0, LONG_ANSWER_TOKENS)
    expected = tokens_of(run_loop(load(llama_path), [long]), 0)
    end_loads_first(monkeypatch)
    pool = load(llama_path)
    model, sent, ticks = pool[llama_path.name], [0, 1], itertools.count()
    follow = one_for_each(model, sent, lambda: not model.rules.reuses_prefixes)
    first = [long, greedy(llama_path, 1)]
    steps = run_loop(pool, first, after_step=follow, clock=lambda: next(ticks) * TICK_S)
    assert model.rules == BatchRules(), len(sent)
    # Its rows were queued again before its longest answer had ended.
    assert sum(step.stats.preempted for step in steps) > 0
    assert tokens_of(steps, 0) == expected
    assert len({tuple(tokens_of(steps, id)) for id in sent[1:]}) == 1


def test_requests_are_answered_before_a_check_has_ended(
    mamba_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[(7 * i + 3 * row) % 250 + 3 for i in range(4 + 9 * row)] for row in range(4)]
    submits = [
        Submit(id, mamba_path.name, TokenPrompt(prompt), Sampling(seed=0, temperature=0.0), 12)
        for id, prompt in enumerate(prompts)
    ]
    expected = run_loop(load(mamba_path), submits)
    end_loads_first(monkeypatch)
    steps = run_loop(load(mamba_path), submits)
    for submit in submits:
        assert tokens_of(steps, submit.id) == tokens_of(expected, submit.id)


def end_checks(pool: ModelPool) -> None:
    while pool.has_checks:
        pool.advance_check()


def next_turn(first: Submit, answer: list[int]) -> Submit:
    """The request whose prompt continues this one and its answer."""
    assert isinstance(first.prompt, TokenPrompt)
    prompt = TokenPrompt([*first.prompt.tokens, *answer, 17, 18, 19])
    return msgspec.structs.replace(first, id=first.id + 1, prompt=prompt)


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_what_is_computed_before_a_check_has_ended_is_continued_behind_it(
    family: str, llama_path: Path, mamba_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = {"llama": llama_path, "mamba": mamba_path}[family]
    first = greedy(path, 0)
    answer = tokens_of(run_loop(load(path), [first]), 0)
    second = next_turn(first, answer)
    expected = tokens_of(run_loop(load(path), [second]), 1)
    end_loads_first(monkeypatch)
    pool = load(path)
    assert not pool[path.name].rules.reuses_prefixes
    assert tokens_of(run_loop(pool, [first]), 0) == answer
    end_checks(pool)
    steps = run_loop(pool, [second])
    [started] = [event for event in events_of(steps, 1) if isinstance(event, Started)]
    assert started.cached_tokens >= PROMPT_TOKENS
    assert tokens_of(steps, 1) == expected


def test_what_is_kept_before_a_check_has_ended_is_not_continued_until_it_has(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_loads_first(monkeypatch)
    pool = load(llama_path)
    first = greedy(llama_path, 0)
    answer = tokens_of(run_loop(pool, [first]), 0)
    assert pool.account.prompt_cache.nbytes > 0
    assert not pool[llama_path.name].rules.reuses_prefixes
    [started] = [
        event
        for event in events_of(run_loop(pool, [next_turn(first, answer)]), 1)
        if isinstance(event, Started)
    ]
    assert started.cached_tokens == 0


def test_what_a_model_may_not_continue_is_freed_once_its_check_says_so(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_loads_first(monkeypatch)
    # Whatever the check compares differs by more.
    monkeypatch.setattr(model_check, "FLOAT32_BOUND", -1.0)
    pool = load(llama_path)
    run_loop(pool, [greedy(llama_path, 0)])
    assert pool.account.prompt_cache.nbytes > 0
    end_checks(pool)
    assert not pool[llama_path.name].rules.reuses_prefixes
    assert pool.account.prompt_cache.nbytes == 0


def test_a_prompt_that_may_not_be_computed_whole_waits_for_the_check(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = greedy(llama_path, 0), greedy(llama_path, 1, tokens=LONG_ANSWER_TOKENS)
    expected = tokens_of(run_loop(load(llama_path), [long]), 0)
    end_loads_first(monkeypatch)
    bound = property(lambda engine: None if engine.rules.slices_prompts else PROMPT_TOKENS - 1)
    monkeypatch.setattr(Engine, "longest_prompt", bound)
    pool = load(llama_path)
    short = msgspec.structs.replace(short, prompt=TokenPrompt([3, 4, 5]))
    steps = run_loop(pool, [short, long])
    assert pool[llama_path.name].rules.slices_prompts
    assert tokens_of(steps, 0) == expected


@pytest.mark.long
def test_caches_that_cannot_be_copied_stop_no_request_before_the_check_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unbatched.make("deepseek_v41", tmp_path / "tiny-deepseek")
    expected = tokens_of(run_loop(load(path), [greedy(path, 0)]), 0)
    end_loads_first(monkeypatch)
    pool = load(path)
    assert tokens_of(run_loop(pool, [greedy(path, 0)]), 0) == expected
    assert pool.account.prompt_cache.nbytes == 0
    rules = pool[path.name].rules
    assert rules.findings[-1].startswith("Nothing is kept in the prompt cache")
    end_checks(pool)
    assert tokens_of(run_loop(pool, [greedy(path, 1)]), 1) == expected


def test_a_model_whose_file_ends_the_process_is_not_loaded(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*args: object, **options: object) -> None:
        sys.stdout.write("install this first\n")
        raise SystemExit(3)

    monkeypatch.setattr(weight_loader, "load_model", load_model)
    with pytest.raises(LoadError, match="its code ended the process with 3: install this first"):
        load(llama_path)
