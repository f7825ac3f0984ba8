"""What a turn of a long conversation computes: its new tokens, for every kind of cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.sessions import Agent, Sessions, make_long
from worker.cache.disk_store import DiskStore
from worker.cache.restore_points import GUESSED_TAILS

# A plain cache, a recurrence alone, one with a window, and a hybrid one.
FAMILIES = (
    "llama",
    "mamba2",
    *(pytest.param(family, marks=pytest.mark.long) for family in ("gemma3_text", "lfm2")),
)
# What a turn may compute although an earlier prompt had it.
MAX_EXCESS_TOKENS = 64


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = str(request.param)
    return make_long(family, tmp_path_factory.mktemp("long") / family)


@pytest.fixture
def sessions(path: Path) -> Sessions:
    return Sessions(path)


@pytest.mark.parametrize("turns", [6, pytest.param(40, marks=pytest.mark.long)])
def test_a_turn_computes_its_new_tokens(sessions: Sessions, turns: int) -> None:
    agent = Agent(1)
    excess = [sessions.ask(agent.say()).excess for _ in range(turns)]
    assert max(excess) <= 1


@pytest.mark.parametrize("turns", [6, pytest.param(40, marks=pytest.mark.long)])
def test_a_line_that_changes_near_the_end_costs_what_follows_it(
    sessions: Sessions, turns: int
) -> None:
    agent = Agent(2, words=(5, 90))
    markers = (f"\n<budget>{7919 * n % 100_000} tokens left</budget>" for n in range(1, turns + 1))
    excess = [sessions.ask(agent.say(marker=marker)).excess for marker in markers]
    assert max(excess) <= MAX_EXCESS_TOKENS


def test_a_line_that_changes_is_found_behind_what_closes_it(sessions: Sessions) -> None:
    agent = Agent(13, words=(60, 90))
    closings = ("", " </result>", "", " </result> </tool>")
    for n, closing in enumerate(closings):
        turn = sessions.ask(agent.say(marker=f"\n<budget>{4321 * n + 7} left</budget>{closing}"))
        assert turn.excess <= MAX_EXCESS_TOKENS


def test_a_line_of_words_that_changes_is_found_where_it_was(sessions: Sessions) -> None:
    agent = Agent(3, words=(30, 80))
    turns, words = [], agent.text(85).split()
    for _ in range(4):
        # Further from the end than what is guessed, so that the second turn pays more.
        words = words[7:] + words[:7]
        turns.append(sessions.ask(agent.say(marker=f"\nOpen files: {' '.join(words)}")))
    assert turns[0].tokens - turns[1].shared > max(GUESSED_TAILS)
    assert max(turn.excess for turn in turns[2:]) <= MAX_EXCESS_TOKENS


@pytest.mark.parametrize(
    "heading",
    [
        "The date is 2026-11-{day}, the time {day}:15.\n",
        "You are careful.\nSession: {number}\n",
        "Request 7d1f{number}ab3c in the folder src.\n",
    ],
)
def test_a_date_or_an_id_in_the_instructions_costs_what_follows_it(
    sessions: Sessions, heading: str
) -> None:
    agent = Agent(4, instructions=Agent(0).text(60))
    agent.system = heading + agent.system
    before = Agent(9).text(120) + "\n"
    for n in range(4):
        changed = heading.format(day=10 + n, number=48611 * (n + 2) % 1_000_000)
        agent.system = changed + Agent(0).text(60)
        assert sessions.ask(agent.say(heading=before)).excess <= MAX_EXCESS_TOKENS


def test_a_line_of_words_in_the_instructions_is_found_at_the_third_turn(sessions: Sessions) -> None:
    agent = Agent(5)
    before = Agent(9).text(120) + "\nFolder: "
    excess = [sessions.ask(agent.say(heading=before + agent.text(3))).excess for _ in range(5)]
    assert max(excess[2:]) <= MAX_EXCESS_TOKENS


def test_an_edit_of_an_earlier_message_costs_what_follows_it(sessions: Sessions) -> None:
    agent = Agent(6)
    for _ in range(6):
        messages = agent.say()
        sessions.ask(messages)
    for edited in (9, 5, 3):
        changed = {**messages[edited], "content": f"No: {messages[edited]['content']}"}
        turn = sessions.ask([*messages[:edited], changed, *messages[edited + 1 :]])
        assert turn.excess <= MAX_EXCESS_TOKENS


def test_an_edit_in_turns_that_were_computed_at_once_costs_what_follows_it(
    sessions: Sessions,
) -> None:
    agent = Agent(14, words=(60, 90))
    for _ in range(5):
        messages = agent.say()
    sessions.ask(messages)
    for edited in (9, 6, 3):
        changed = {**messages[edited], "content": f"No: {messages[edited]['content']}"}
        turn = sessions.ask([*messages[:edited], changed, *messages[edited + 1 :]])
        assert turn.excess <= MAX_EXCESS_TOKENS


def test_a_line_that_moves_is_found_behind_a_branch_that_goes_on_without_it(
    sessions: Sessions,
) -> None:
    agent = Agent(15, words=(60, 90))
    for n in range(2):
        sessions.ask(agent.say(marker=f"\n<budget>{1234 * n + 7} tokens left</budget>"))
    branch = Agent(82, instructions=agent.system, words=(200, 200))
    branch.history = list(agent.history)
    sessions.ask(branch.say())
    for left in (755, 700, 51):
        turn = sessions.ask(agent.say(marker=f"\n<budget>{left} tokens left</budget>"))
        assert turn.excess <= MAX_EXCESS_TOKENS


def test_sessions_in_turn_each_compute_their_new_tokens(sessions: Sessions) -> None:
    agents = [Agent(seed) for seed in (16, 17, 18)]
    for _ in range(3):
        for agent in agents:
            assert sessions.ask(agent.say()).excess <= MAX_EXCESS_TOKENS


def test_branches_share_what_they_have_in_common(sessions: Sessions) -> None:
    agent = Agent(7)
    for _ in range(3):
        messages = agent.say()
        sessions.ask(messages)
    branches = [Agent(seed, instructions=agent.system) for seed in (70, 71)]
    for branch in branches:
        branch.history = list(agent.history)
    for _ in range(3):
        for each in (*branches, agent):
            assert sessions.ask(each.say()).excess <= MAX_EXCESS_TOKENS
    title = [messages[0], {"role": "user", "content": "A title for this conversation, please."}]
    assert sessions.ask(title).excess <= MAX_EXCESS_TOKENS


def test_a_branch_after_a_line_that_moves_and_a_retry_cost_what_follows_the_line(
    sessions: Sessions,
) -> None:
    agent = Agent(12, words=(60, 90))
    for n in range(2):
        messages = agent.say(marker=f"\n<budget>{1234 * n + 7} tokens left</budget>")
        sessions.ask(messages)
    for seed in (80, 81):
        branch = Agent(seed, instructions=agent.system)
        branch.history = list(agent.history)
        assert sessions.ask(branch.say()).excess <= MAX_EXCESS_TOKENS
    messages = agent.say(marker="\n<budget>777 tokens left</budget>")
    sessions.cancel_in_prefill(messages, slices=1)
    assert sessions.ask(messages).excess <= MAX_EXCESS_TOKENS
    for left in (755, 700, 51):
        turn = sessions.ask(agent.say(marker=f"\n<budget>{left} tokens left</budget>"))
        assert turn.excess <= MAX_EXCESS_TOKENS


def test_a_cancelled_prefill_keeps_what_it_has_computed(sessions: Sessions) -> None:
    agent = Agent(8, words=(150, 150))
    messages = agent.say()
    computed = sessions.cancel_in_prefill(messages, slices=3)
    assert sessions.ask(messages).cached >= computed > 0
    messages = agent.say()
    computed = sessions.cancel_in_prefill(messages, slices=1)
    assert sessions.ask(messages).cached >= computed
    assert sessions.ask(agent.say()).excess <= 1


def test_an_answer_after_changes_edits_and_a_cancel_is_that_without_a_cache(path: Path) -> None:
    warm, cold = Sessions(path), Sessions(path, cache_bytes=0)
    agent = Agent(10, words=(5, 30))
    for n in range(3):
        messages = agent.say(marker=f"\n{31 * n % 100} % left", heading=f"Now: {10 + n}:30\n")
        if n == 1:
            warm.cancel_in_prefill(messages, slices=1)
        _, tokens = warm.answer(messages, 6)
        assert tokens == cold.answer(messages, 6)[1]
    edited = [*messages[:3], {"role": "user", "content": "Once more."}, *messages[4:]]
    assert warm.answer(edited, 6)[1] == cold.answer(edited, 6)[1]


def test_after_a_restart_a_turn_computes_what_it_would_have_before(
    path: Path, tmp_path: Path
) -> None:
    store = DiskStore(tmp_path, 1 << 30)
    first, agent = Sessions(path, disk_store=store), Agent(11)
    for n in range(12):
        first.ask(agent.say(marker=f"\n<budget>{77 * n} left</budget>"))
    store.close()
    store = DiskStore(tmp_path, 1 << 30)
    second = first.restart(store)
    assert second.ask(agent.say(marker="\n<budget>1234 left</budget>")).excess <= MAX_EXCESS_TOKENS
    assert second.ask(agent.say(marker="\n<budget>1100 left</budget>")).excess <= MAX_EXCESS_TOKENS
    store.close()
