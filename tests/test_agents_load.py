"""The trace of coding agents: its script, its models' template, the counts and the tables."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.load.agents import SHORT, WHOLE, models
from tests.load.agents.expected import PromptTokens, new_tokens, shared
from tests.load.agents.rows import Row, Trace, make_rows
from tests.load.agents.script import MANNERS, Manner, Request, Session, Shape, Step, make_sessions
from tests.load.agents.sending import Sent, body_of
from tests.load.agents.tables import summary_table, turns_table
from tests.load.agents.tools import make_tools
from tests.load.timings import Timing

TOOLS_BYTES = range(58_000, 64_000)
ROW = Row("stays", 3, "turn", "", 100, 10, 12, 0.5, 1.0, None)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptTokens:
    return PromptTokens(models.make("plain", tmp_path_factory.mktemp("models")))


def requests_of(steps: list[Step]) -> Iterator[Request]:
    return (request for step in steps for request in step.requests)


def steps_of(manner: Manner, shape: Shape = SHORT) -> list[Step]:
    return list(Session(manner, manner, shape).steps())


def request_at(manner: Manner, turn: int, shape: Shape = SHORT) -> Request:
    """The last request of a turn that goes on with the session."""
    mine = [r for r in requests_of(steps_of(manner, shape)) if r.kind not in ("sub-agent", "title")]
    return [request for request in mine if request.turn == turn][-1]


def test_two_runs_send_the_same_bytes() -> None:
    first, second = (
        [json.dumps(body_of(r)) for steps in sessions.values() for r in requests_of(steps)]
        for sessions in (make_sessions(5, SHORT), make_sessions(5, SHORT))
    )
    assert first == second
    assert len(set(first)) < len(first)  # a retry sends the same again


def test_a_session_has_forty_turns_and_sixty_kilobytes_of_tools() -> None:
    assert [step.turn for step in steps_of("stays", WHOLE)][-1] == 40
    assert len(make_tools(WHOLE.tools)) == 24
    assert len(json.dumps(make_tools(WHOLE.tools))) in TOOLS_BYTES


def test_a_session_has_a_title_branches_a_cancel_its_retry_and_an_edit() -> None:
    steps = steps_of("stays")
    kinds = [request.kind for request in requests_of(steps)]
    assert kinds.count("title") == kinds.count("cancelled") == kinds.count("edited") == 1
    assert kinds.count("sub-agent") == 4
    retry = kinds.index("retry")
    cancelled, retried = list(requests_of(steps))[retry - 1 : retry + 1]
    assert cancelled.cancel
    assert not retried.cancel
    assert body_of(cancelled) == body_of(retried)


def test_results_have_the_lengths_that_are_said(prompts: PromptTokens) -> None:
    tokenizer = models.make_tokenizer()
    results = [
        message["content"]
        for message in request_at("moves", WHOLE.edit_turn - 1, WHOLE).messages
        if message["role"] == "tool"
    ]
    lengths = [len(tokenizer.encode(result).ids) for result in results]
    assert 100 < min(lengths) < 300
    assert 3000 < max(lengths) < 4500


@pytest.mark.parametrize("manner", MANNERS)
def test_a_whole_session_fits_the_models_context(manner: Manner, prompts: PromptTokens) -> None:
    longest = len(prompts.of(request_at(manner, WHOLE.turns, WHOLE)))
    assert 30_000 < longest + WHOLE.answer_tokens <= models.CONTEXT_TOKENS


def shared_part(prompts: PromptTokens, manner: Manner, turn: int) -> float:
    """How much of a turn's prompt the next one begins with."""
    before, after = (prompts.of(request_at(manner, each)) for each in (turn, turn + 1))
    return shared(before, after) / len(before)


def test_a_line_that_stays_changes_nothing_before_it(prompts: PromptTokens) -> None:
    before = prompts.of(request_at("stays", 3))
    assert shared(before, prompts.of(request_at("stays", 4))) >= len(before) - 1


def test_a_line_that_moves_parts_near_the_end(prompts: PromptTokens) -> None:
    assert 0.97 < shared_part(prompts, "moves", 3) < 1.0


def test_a_date_parts_in_the_instructions(prompts: PromptTokens) -> None:
    assert 0.1 < shared_part(prompts, "dated", SHORT.date_turn - 1) < 0.5


def test_reasoning_is_dropped_at_the_next_message_of_the_developer(prompts: PromptTokens) -> None:
    assert shared_part(prompts, "reasons", 7) > 0.99
    assert shared_part(prompts, "reasons", 8) < 0.9


@given(st.lists(st.integers(0, 3), min_size=1), st.lists(st.lists(st.integers(0, 3))))
def test_new_tokens_are_those_after_the_longest_shared_prefix(
    prompt: list[int], known: list[list[int]]
) -> None:
    arrays = [np.array(each, np.int32) for each in known]
    new = new_tokens(np.array(prompt, np.int32), arrays)
    assert 1 <= new <= len(prompt)
    prefix = prompt[: len(prompt) - new]
    assert not prefix or any(each[: len(prefix)] == prefix for each in known)
    longer = prompt[: len(prefix) + 1]
    assert new == 1 or not any(each[: len(longer)] == longer for each in known)


def test_a_prompt_is_known_from_its_first_token_on(prompts: PromptTokens) -> None:
    request = request_at("stays", 1)

    def sent(due_at: float, first_at: float) -> Sent:
        timing = Timing(due_at, [first_at], first_at, prompt_tokens=9, cached_tokens=4)
        return Sent(request, timing)

    rows = make_rows([sent(0.0, 2.0), sent(1.0, 3.0), sent(2.5, 4.0)], prompts, SHORT)
    assert [row.new for row in rows] == [rows[0].prompt, rows[0].prompt, 1]
    assert [row.computed for row in rows] == [5, 5, 5]


def test_more_than_the_new_tokens_and_64_is_excessive() -> None:
    assert not replace(ROW, computed=74).is_excessive
    assert replace(ROW, computed=75).is_excessive
    assert not replace(ROW, computed=75, error="cancelled").is_excessive
    assert not replace(ROW, computed=None).is_excessive


def test_the_tables_tell_each_kind_of_request() -> None:
    rows = [
        replace(ROW, turn=1),
        replace(ROW, turn=14, computed=90),
        replace(ROW, turn=14, kind="sub-agent"),
        replace(ROW, turn=30, after="after the kill", first_s=None),
    ]
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(turns_table("plain", rows))
    console.print(summary_table({("plain", "mlxd"): [Trace(rows, 75.25)]}))
    text = console.export_text()
    for name in ("turn 1", "turns 11 to 20", "sub-agent", "after the kill", "80", "75.2"):
        assert name in text


def test_the_totals_of_rounds_are_compared_round_by_round() -> None:
    ours, theirs = ([Trace([ROW], s) for s in each] for each in ((10, 40, 20), (100, 80, 100)))
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(summary_table({("plain", "mlxd"): ours, ("plain", "another"): theirs}))
    assert "0.20 (0.10 to 0.50)" in console.export_text()
