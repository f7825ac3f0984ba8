"""What is worth least goes first: bytes and age against the tokens that it saves."""

from __future__ import annotations

import random
from dataclasses import dataclass

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache, RotatingKVCache

from worker.cache import eviction_order
from worker.cache.prefix_cache import PrefixCache

TOKEN_BYTES = 8
WINDOW_TOKENS = 16
STATE_BYTES = WINDOW_TOKENS * TOKEN_BYTES
# Of two orders of eviction either may be lucky once.
MARGIN = 1.02

Tokens = list[int]


def fill(cache: KVCache | RotatingKVCache, tokens: int) -> KVCache | RotatingKVCache:
    cache.update_and_fetch(mx.zeros((1, 1, tokens, 1)), mx.zeros((1, 1, tokens, 1)))
    return cache


def insert(cache: PrefixCache, tokens: Tokens, *, windows: bool = False, model: str = "m") -> None:
    """Insert a prompt; with `windows` its model has a layer that cannot be cut."""
    layers = [fill(KVCache(), len(tokens))]
    if windows:
        layers.append(fill(RotatingKVCache(max_size=WINDOW_TOKENS), WINDOW_TOKENS))
    cache.insert(model, tokens, layers)


def cached(cache: PrefixCache, tokens: Tokens, model: str = "m") -> int:
    return cache.find(model, [*tokens, -1]).length


def take_turns(cache: PrefixCache, sessions: list[Tokens], turns: int) -> None:
    """Each session goes on in turn, by 20 tokens."""
    for _ in range(turns):
        for number, tokens in enumerate(sessions):
            cached(cache, tokens)
            tokens += [1000 * number + 7 * len(tokens) + n for n in range(20)]
            insert(cache, tokens)


def test_prompts_that_are_used_once_do_not_evict_conversations() -> None:
    cache = PrefixCache(1000 * TOKEN_BYTES)
    sessions: list[Tokens] = [[], [], []]
    for turn in range(12):
        take_turns(cache, sessions, 1)
        for once in range(3):
            insert(cache, [-2 - turn, *range(once, once + 99)])
        assert all(cached(cache, tokens) == len(tokens) for tokens in sessions)


def test_a_conversation_that_has_ended_makes_room_for_one_that_goes_on() -> None:
    cache = PrefixCache(500 * TOKEN_BYTES)
    ended: list[Tokens] = [[]]
    take_turns(cache, ended, 20)
    current: list[Tokens] = [[5]]
    take_turns(cache, current, 20)
    assert cached(cache, current[0]) == len(current[0])
    assert cached(cache, ended[0]) < len(ended[0])


def test_sessions_within_the_budget_do_not_evict_each_other() -> None:
    cache = PrefixCache(4 * 20 * 40 * TOKEN_BYTES)
    sessions: list[Tokens] = [[], [], [], []]
    take_turns(cache, sessions, 40)
    assert all(cached(cache, tokens) == len(tokens) for tokens in sessions)


def test_the_states_of_restore_points_that_are_close_go_before_tokens_do() -> None:
    tokens = list(range(400))
    cache = PrefixCache(400 * TOKEN_BYTES + 3 * STATE_BYTES)
    for length in (100, 102, 104, 200, 202, 400):
        insert(cache, tokens[:length], windows=True)
    assert cache.nbytes <= 400 * TOKEN_BYTES + 3 * STATE_BYTES
    assert cached(cache, tokens) == 400
    assert cached(cache, [*tokens[:210], -5]) >= 200
    assert cached(cache, [*tokens[:110], -5]) >= 100


def test_what_saves_few_tokens_for_its_bytes_goes_first() -> None:
    cache = PrefixCache(200 * TOKEN_BYTES + STATE_BYTES)
    insert(cache, list(range(10)), windows=True, model="windows")
    insert(cache, list(range(150)))
    insert(cache, list(range(500, 560)))
    assert cached(cache, list(range(10)), "windows") == 0
    assert cached(cache, list(range(150))) == 150


@dataclass
class Conversation:
    """Turns behind a system prompt of its own; the answer is another one than the next turn has."""

    prompt: Tokens
    number: int

    def turn(self, cache: PrefixCache, turn: int, *, windows: bool) -> int:
        """Compute the next turn; the tokens that were not cached."""
        computed = len(self.prompt) - cached(cache, self.prompt)
        answer = [-(1000 * self.number + 10 * turn + n) - 2 for n in range(8)]
        for tokens in (self.prompt, [*self.prompt, *answer]):
            insert(cache, tokens, windows=windows)
        self.prompt = [*self.prompt, *(10_000 * self.number + 100 * turn + n for n in range(30))]
        return computed


def compute_turns(seed: int, *, share: float, windows: bool) -> int:
    """The tokens that four conversations in turn compute in a part of the room that they need."""
    chance = random.Random(seed)
    states = 12 * STATE_BYTES if windows else 0
    cache = PrefixCache(round(share * 4 * ((100 + 12 * 38) * TOKEN_BYTES + states)))
    conversations = [Conversation([*range(500 * n, 500 * n + 100)], n) for n in range(1, 5)]
    left = [n for n in range(4) for _ in range(12)]
    chance.shuffle(left)
    computed = 0
    for place, number in enumerate(left):
        computed += conversations[number].turn(cache, place, windows=windows)
    return computed


@pytest.mark.parametrize("share", [0.6, 0.4])
@pytest.mark.parametrize("windows", [False, True])
def test_in_half_the_room_no_more_is_computed_than_if_the_least_recently_used_goes_first(
    share: float, windows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [compute_turns(seed, share=share, windows=windows) for seed in range(3)]
    # All parts are worth the same then.
    monkeypatch.setattr(eviction_order, "saved_tokens", lambda node: 0)
    theirs = [compute_turns(seed, share=share, windows=windows) for seed in range(3)]
    assert sum(ours) <= MARGIN * sum(theirs)


# Prompts that begin alike: which text they begin with, how much of it they have, and their own.
prompts = st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(0, 12)).map(
    lambda drawn: [*range(100 * drawn[0], 100 * drawn[0] + drawn[1]), *[7000 + drawn[2]] * drawn[2]]
)
operations = st.lists(
    st.tuples(prompts.filter(bool), st.booleans(), st.integers(0, 400)), max_size=40
)


@given(operations, st.integers(4, 120))
def test_the_limit_holds_and_nothing_is_held_that_cannot_be_evicted(
    drawn: list[tuple[Tokens, bool, int]], limit_tokens: int
) -> None:
    cache = PrefixCache(limit_tokens * TOKEN_BYTES)
    for tokens, windows, shrunk in drawn:
        model = "windows" if windows else "plain"
        insert(cache, tokens, windows=windows, model=model)
        assert cache.nbytes <= limit_tokens * TOKEN_BYTES
        assert cached(cache, tokens, model) <= len(tokens)
        if shrunk < limit_tokens:
            cache.shrink(shrunk * TOKEN_BYTES)
            assert cache.nbytes <= shrunk * TOKEN_BYTES
    cache.shrink(0)
    assert cache.nbytes == 0


def test_a_node_is_not_evicted_while_room_is_made_for_it() -> None:
    tokens = list(range(103))
    cache = PrefixCache(102 * TOKEN_BYTES + 2 * STATE_BYTES)
    # The states of the second go first, and the third is worth less than the first.
    for length in (100, 102, 103):
        insert(cache, tokens[:length], windows=True)
    assert cached(cache, tokens) == 103
    cache.shrink(0)
    assert cache.nbytes == 0
