"""A model is checked when it is loaded, once for its content, and the result is in its state."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from protocol.batching import BatchRules
from protocol.events import Finished, Rejected
from protocol.messages import ModelSource, Sampling, Step, Submit, TokenPrompt
from tests.models import unbatched
from tests.worker.driver import make_config_loader, make_configure, run_loop, tokens_of
from worker.cache.disk_store import DiskStore
from worker.intake.prepared import PreparedRequest, prepare
from worker.models import weight_loader
from worker.models.model_config import LoadError
from worker.models.pool import ModelPool
from worker.selfcheck import load_check, model_check
from worker.selfcheck.model_check import ModelCheck

# A check of a tiny model ends long before, also in a share of the time.
MOST_REQUESTS = 2000
LONG_ANSWER_TOKENS = 300
# How far the clock goes on each time that it is read.
TICK_S = 0.05


def load(*paths: Path, folder: Path | None = None) -> ModelPool:
    configure = make_configure([ModelSource(path.name, str(path)) for path in paths])
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
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)
    pool = load(mamba_path, folder=tmp_path)
    [state] = pool.states()
    assert state.rules is not None
    assert (state.rules.batching, state.rules.unchecked != []) == ("none", True)
    while pool.has_checks:
        pool.advance_check()
    [state] = pool.states()
    assert state.rules is not None
    assert (state.rules.batching, state.rules.unchecked) == ("decode", [])
    refuse_checks(monkeypatch)
    [again] = load(mamba_path, folder=tmp_path).states()
    assert again.rules == state.rules


def test_a_check_goes_on_beside_requests_where_one_always_waits(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)
    pool = load(llama_path)
    model = pool[llama_path.name]
    assert not model.rules.reuses_prefixes
    greedy = Sampling(seed=0, temperature=0.0)

    def make(id: int) -> Submit:
        return Submit(id, llama_path.name, TokenPrompt([*range(3, 60)]), greedy, 8)

    sent = [0, 1]

    def follow(step: Step) -> Iterable[PreparedRequest | Rejected]:
        """One more request for each that has ended, so that one always waits."""
        ended = sum(isinstance(event, Finished) for event in step.events)
        goes_on = model.check is not None and len(sent) < MOST_REQUESTS
        for _ in range(ended if goes_on else 0):
            sent.append(len(sent))
            yield prepare(model.config, make(sent[-1]))

    steps = run_loop(pool, [make(0), make(1)], max_running=1, after_step=follow)
    assert model.check is None, len(sent)
    assert model.rules == BatchRules()
    assert len({tuple(tokens_of(steps, id)) for id in sent}) == 1


def test_what_a_check_has_found_is_applied_where_answers_always_overlap(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Sampling(seed=0, temperature=0.0)

    def make(id: int, tokens: int = 8) -> Submit:
        return Submit(id, llama_path.name, TokenPrompt([*range(3, 60)]), greedy, tokens)

    expected = tokens_of(run_loop(load(llama_path), [make(0, LONG_ANSWER_TOKENS)]), 0)
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)
    pool = load(llama_path)
    model = pool[llama_path.name]
    sent = [0, 1]

    def follow(step: Step) -> Iterable[PreparedRequest | Rejected]:
        """One more request for each short one that has ended: the model always has rows."""
        ended = sum(isinstance(event, Finished) for event in step.events)
        goes_on = not model.rules.reuses_prefixes and len(sent) < MOST_REQUESTS
        for _ in range(ended if goes_on else 0):
            sent.append(len(sent))
            yield prepare(model.config, make(sent[-1]))

    ticks = itertools.count()
    first = [make(0, LONG_ANSWER_TOKENS), make(1)]
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
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)
    steps = run_loop(load(mamba_path), submits)
    for submit in submits:
        assert tokens_of(steps, submit.id) == tokens_of(expected, submit.id)


def test_a_model_whose_file_ends_the_process_is_not_loaded(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*args: object, **options: object) -> None:
        sys.stdout.write("install this first\n")
        raise SystemExit(3)

    monkeypatch.setattr(weight_loader, "load_model", load_model)
    with pytest.raises(LoadError, match="its code ended the process with 3: install this first"):
        load(llama_path)
