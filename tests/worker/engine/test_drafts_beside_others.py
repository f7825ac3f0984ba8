"""Rows that are drafted beside rows that never are, with packed caches, and when one leaves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.batching import BatchRules
from protocol.grammars import JsonSchema, Regex
from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit
from tests.models import staged
from tests.models.thinking import MODELS
from tests.worker.driver import compile_grammar, make_config_loader, make_pool
from tests.worker.engine.drafted_rows import (
    ROWS,
    TOKENS,
    Answer,
    Constrain,
    Shares,
    answer_all,
    assert_equal,
    insert,
    join_and_leave,
    make_engine,
    prompt_of,
    step,
    take_tokens,
)
from worker.cache.prefix_cache import PrefixCache
from worker.engine.batches import row_positions
from worker.engine.engine import Engine, Token
from worker.engine.sampler import make_row
from worker.intake.prepared import PreparedRequest, prepare
from worker.models.weight_loader import LoadedModel
from worker.scheduler.running import make_output_processor
from worker.structured_output.constraint import compile_text
from worker.structured_output.llguidance_source import to_llguidance

# Longer than any answer here, so that no row ends because of it.
WORDS = Regex("[a-z ]{400}")
SCHEMA = JsonSchema('{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
GREEDY = Sampling(seed=0, temperature=0.0)


def has_grammar(id: int) -> bool:
    return id % 4 == 3


@pytest.fixture(scope="module")
def constrain(llama_path: Path) -> Constrain:
    """A grammar for a quarter of the rows: of greedy ones and of random ones."""
    source = ModelSource("llama", str(llama_path))
    config = make_config_loader().load(source, download=False)
    assert config.grammars.vocabulary is not None
    grammar = compile_text(to_llguidance(WORDS), config.grammars.vocabulary)
    return lambda id: grammar.create_constraint() if has_grammar(id) else None


@pytest.mark.parametrize("seed", range(2))
def test_rows_with_a_grammar_and_drafted_rows_beside_them_get_the_tokens_that_they_get_alone(
    llama_path: Path, constrain: Constrain, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 6 + seed)
    plain = make_engine(llama_path, speculates=False)
    expected = answer_all(plain, llama_path, range(ROWS), constrain)
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30))
    answers, _ = join_and_leave(
        engine,
        llama_path,
        expected,
        random.Random(seed),
        Shares(predicted=1.0),
        constrain=constrain,
    )
    for id, answer in answers.items():
        assert not (has_grammar(id) and answer.accepted + answer.rejected)
    assert sum(answer.accepted for answer in answers.values()) > TOKENS
    assert sum(answer.rejected for answer in answers.values()) > 0


@pytest.mark.parametrize("seed", range(2))
def test_rows_with_quantised_keys_get_with_drafts_the_tokens_of_the_same_bits(
    llama_path: Path, seed: int
) -> None:
    plain = make_engine(llama_path, speculates=False, kv_bits=8)
    expected = answer_all(plain, llama_path, range(ROWS))
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30), kv_bits=8)
    assert engine.quantisation.layers > 0
    answers, _ = join_and_leave(
        engine, llama_path, expected, random.Random(seed), Shares(predicted=1.0)
    )
    assert sum(answer.accepted for answer in answers.values()) > TOKENS
    assert sum(answer.rejected for answer in answers.values()) > 0


@pytest.mark.parametrize("at_delivery", [False, True])
def test_a_row_that_leaves_within_a_drafted_run_changes_no_other_and_can_go_on(
    llama_path: Path, at_delivery: bool
) -> None:
    rows, left = [0, 1, 3, 6], 1
    expected = answer_all(make_engine(llama_path, speculates=False), llama_path, rows)
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30))
    answers: dict[int, Answer] = {}
    for id in rows:
        insert(engine, llama_path, id, expected[id].tokens)
    while left not in answers or answers[left].accepted < 3:
        step(engine, answers)
    known = answers[left].tokens
    assert len(known) < TOKENS - 6
    if at_delivery:
        leave_at_delivery(engine, llama_path, answers, left)
    else:
        engine.remove([left])
    kept = list(known)
    while len(engine):
        step(engine, answers)
    assert answers[left].tokens == kept == expected[left].tokens[: len(kept)]
    for id in set(rows) - {left}:
        assert_equal(answers[id], expected[id])
        assert answers[id].accepted > TOKENS / 2
    again: dict[int, Answer] = {left: Answer()}
    insert(engine, llama_path, left, expected[left].tokens, resume=kept)
    while len(engine):
        step(engine, again)
    assert kept + again[left].tokens == expected[left].tokens


def leave_at_delivery(engine: Engine, path: Path, answers: dict[int, Answer], left: int) -> None:
    """Remove the row as soon as it has drafted tokens, while a slice of a prompt is computed."""
    engine.insert(ROWS, prompt_of(path, 4) * 20, 1, make_row(GREEDY))
    has_left = False

    def deliver(tokens: list[Token]) -> None:
        nonlocal has_left
        take_tokens(tokens, answers)
        if any(token.id == left and token.drafted.accepted for token in tokens):
            engine.remove([left])
            has_left = True

    while not has_left:
        take_tokens(engine.step(deliver=deliver), answers)


THINKING: dict[int, dict[str, Any]] = {
    0: {},
    1: {"thinking_budget": 3},
    2: {"thinking_budget": 0, "grammar": SCHEMA},
    3: {},
    4: {"grammar": SCHEMA},
    5: {"thinking_budget": 6, "sampling": Sampling(seed=3, temperature=0.5)},
}
DRAFTED = (0, 3)


@pytest.fixture
def thinking(tmp_path: Path) -> Iterator[LoadedModel]:
    """A model whose answer is JSON behind some reasoning."""
    pool = make_pool(staged.make(MODELS["opens-json"], tmp_path / "model"))
    yield pool["model"]
    pool["model"].config.grammars.close()


def test_rows_with_a_budget_of_thinking_beside_drafted_rows_get_the_tokens_that_they_get_alone(
    thinking: LoadedModel,
) -> None:
    path = thinking.config.path
    plain = answer_thinking(thinking, make_engine(path, speculates=False), {})
    engine = make_engine(path, speculates=True)
    engine.rules = BatchRules(verifies_drafts=True)
    drafted = answer_thinking(thinking, engine, {id: each.tokens for id, each in plain.items()})
    assert len({tuple(each.tokens) for each in plain.values()}) >= 4
    for id in THINKING:
        assert_equal(drafted[id], plain[id])
        assert (drafted[id].accepted > 0) == (id in DRAFTED)


def answer_thinking(
    loaded: LoadedModel, engine: Engine, predictions: Mapping[int, Sequence[int]]
) -> dict[int, Answer]:
    """The answers to all these requests at once, each of which has its prediction."""
    model = LoadedModel(loaded.info, engine, loaded.config)
    answers: dict[int, Answer] = {}
    for id, fields in THINKING.items():
        prompt = ChatPrompt([{"role": "user", "content": "Well?"}])
        settings = {"sampling": GREEDY, **fields}
        submit = Submit(id=id, model="model", prompt=prompt, max_tokens=400, **settings)
        prepared = compile_grammar(prepare(loaded.config, submit))
        assert isinstance(prepared, PreparedRequest)
        prepared = replace(prepared, prediction=predictions.get(id, ()))
        row = make_output_processor(model, prepared).row
        engine.insert(id, prepared.context, prepared.max_tokens, row)
    while len(engine):
        step(engine, answers)
    return answers
