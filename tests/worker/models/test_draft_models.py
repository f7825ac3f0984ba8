"""A model's draft model is loaded, counted and unloaded with it, or refused in words."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from protocol.batching import SpeculationMode
from protocol.messages import ModelSource, Sampling, Submit, TokenPrompt
from protocol.model_states import DraftModelFacts
from tests.models import unbatched
from tests.worker.driver import make_config_loader, make_configure, run_loop, tokens_of
from worker.engine.engine import Engine
from worker.folder.vocabularies import describe_difference
from worker.models.model_config import LoadError
from worker.models.pool import ModelPool, NoWaitingRequests
from worker.selfcheck import draft_check, model_check

ID = "drafted"


def load(path: Path, draft: Path | None = None, mode: SpeculationMode = "on") -> ModelPool:
    source = ModelSource(
        ID, str(path), speculation=mode, draft_model=None if draft is None else str(draft)
    )
    pool = ModelPool(make_configure([source]), make_config_loader())
    pool.load_all()
    return pool


def test_both_models_are_counted_and_unloaded_together(llama_path: Path) -> None:
    alone, both = load(llama_path), load(llama_path, llama_path)
    weights = alone[ID].info.weight_bytes
    assert alone[ID].info.draft is None
    assert both[ID].info.draft == DraftModelFacts(llama_path.name, weights)
    assert both[ID].info.weight_bytes == both.account.weight_bytes[ID] == 2 * weights
    of_one, of_both = (pool.account.kv[ID].cost.batch_bytes(1, 1000) for pool in (alone, both))
    assert of_both == 2 * of_one
    assert both.unload(ID, NoWaitingRequests())
    assert both.account.reserved_bytes == 0


def test_answers_are_the_same_with_a_draft_model(llama_path: Path) -> None:
    prompts = [[(7 * i + 3 * row) % 250 + 3 for i in range(4 + 9 * row)] for row in range(4)]
    submits = [
        Submit(id, ID, TokenPrompt(prompt), Sampling(seed=id, temperature=0.4 * (id % 2)), 24)
        for id, prompt in enumerate(prompts)
    ]
    plain = run_loop(load(llama_path, mode="off"), submits)
    drafted = run_loop(load(llama_path, llama_path), submits)
    for submit in submits:
        assert tokens_of(drafted, submit.id) == tokens_of(plain, submit.id)


def test_a_draft_model_with_another_vocabulary_is_refused(
    llama_path: Path, qwen_path: Path
) -> None:
    words = rf"its draft_model {qwen_path.name} has another vocabulary: \d+ of \d+ tokens differ"
    with pytest.raises(LoadError, match=words):
        load(llama_path, qwen_path)


def test_a_draft_model_that_is_not_there_is_refused(llama_path: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="its draft_model nowhere cannot be read"):
        load(llama_path, tmp_path / "nowhere")


def test_a_draft_model_without_plain_attention_is_refused(
    models_folder: Path, tmp_path: Path
) -> None:
    path = unbatched.make("mamba", tmp_path / "tiny-mamba")
    with pytest.raises(LoadError, match="a draft model needs plain attention"):
        load(path, path)


def test_a_draft_model_is_not_kept_where_no_drafts_are_verified(llama_path: Path) -> None:
    pool = load(llama_path, llama_path, mode="off")
    info = pool[ID].info
    assert info.draft is None
    assert info.weight_bytes == load(llama_path).account.weight_bytes[ID]
    assert info.problems == ["its draft_model is not used: speculation is off"]


def test_a_draft_model_is_freed_where_a_late_check_finds_that_no_drafts_are_verified(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(engine: Engine, prompts: object) -> Generator[None, None, str]:
        yield
        return "it rounds otherwise"

    monkeypatch.setattr(draft_check, "check_answers", refuse)
    monkeypatch.setattr(model_check, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(model_check, "LOAD_SHARE", 0.0)
    pool = load(llama_path, llama_path, mode="auto")
    weights = pool[ID].info.weight_bytes
    assert pool[ID].info.draft is not None
    while pool.has_checks:
        pool.advance_check()
    info = pool[ID].info
    assert info.draft is None
    assert info.weight_bytes == pool.account.weight_bytes[ID] == weights // 2
    assert info.problems == ["its draft_model is not used: it rounds otherwise"]


def test_vocabularies_are_compared_by_content() -> None:
    own = {"a": 0, "b": 1, "cc": 2}
    assert describe_difference(own, dict(reversed(own.items()))) == ""
    assert describe_difference(own, {"a": 0, "b": 2, "d": 1}) == (
        "3 of 3 tokens differ, such as 'b', 'd', 'cc'"
    )
