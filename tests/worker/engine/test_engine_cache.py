"""Conversations that go on are answered as if nothing were cached, and pay for new tokens only."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.models.hybrid import VOCABULARY_SIZE, make_hybrid
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0)
ANSWER_TOKENS = 20
SYSTEM_TOKENS = 150
TURNS = 10
TALKS = 4
PLENTY_BYTES = 1 << 30


class Talks:
    """Some conversations with one system prompt, carried on turn by turn over one engine."""

    def __init__(self, model: nn.Module, cache: PrefixCache) -> None:
        self.model = model
        self.engine = Engine(
            model, max_running=TALKS, prefill_step_tokens=32, name="m", prompt_cache=cache
        )
        self.chance = random.Random(1)
        system = self._draw(SYSTEM_TOKENS)
        self.tokens = [list(system) for _ in range(TALKS)]

    def ask(self) -> list[int]:
        """Put a new question to each; how many tokens of each prompt were cached."""
        for tokens in self.tokens:
            tokens += self._draw(self.chance.randrange(2, 60))
        return [
            self.engine.insert(id, list(tokens), ANSWER_TOKENS, make_row(GREEDY), [SYSTEM_TOKENS])
            for id, tokens in enumerate(self.tokens)
        ]

    def answer(self) -> list[list[int]]:
        """The answers to what was asked, which the conversations then hold."""
        answers: list[list[int]] = [[] for _ in self.tokens]
        while len(self.engine):
            for token in self.engine.step():
                answers[token.id].append(token.token)
        for tokens, answer in zip(self.tokens, answers, strict=True):
            tokens += answer
        return answers

    def expect(self, prompt: list[int]) -> list[int]:
        """mlx-lm's own answer, alone and from the first token on."""
        steps = generate_step(mx.array(prompt), self.model, max_tokens=ANSWER_TOKENS)
        return [int(token) for token, _ in steps]

    def _draw(self, count: int) -> list[int]:
        return self.chance.choices(range(10, VOCABULARY_SIZE), k=count)


@pytest.fixture(params=["llama", "qwen", "gemma", "hybrid"])
def model(request: pytest.FixtureRequest, model_paths: dict[str, Path]) -> nn.Module:
    if request.param == "hybrid":
        return make_hybrid()
    loaded, _ = load_model(model_paths[request.param])
    return loaded


def test_each_turn_pays_for_its_new_tokens_and_is_answered_as_without_a_cache(
    model: nn.Module,
) -> None:
    talks = Talks(model, PrefixCache(PLENTY_BYTES))
    held = [0] * TALKS
    for _ in range(TURNS):
        assert talks.ask() == held
        expected = [talks.expect(tokens) for tokens in talks.tokens]
        assert talks.answer() == expected
        held = [len(tokens) for tokens in talks.tokens]


def test_a_system_prompt_serves_conversations_that_part_after_it(model: nn.Module) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    first, second = Talks(model, cache), Talks(model, cache)
    first.ask()
    first.answer()
    second.chance.seed(2)
    assert all(SYSTEM_TOKENS <= cached < SYSTEM_TOKENS + 3 for cached in second.ask())
    expected = [second.expect(tokens) for tokens in second.tokens]
    assert second.answer() == expected


def test_the_same_prompt_again_computes_its_last_token_only(model: nn.Module) -> None:
    talks = Talks(model, PrefixCache(PLENTY_BYTES))
    talks.ask()
    prompts = [list(tokens) for tokens in talks.tokens]
    once = talks.answer()
    talks.tokens = prompts
    lengths = [len(prompt) for prompt in prompts]
    cached = [
        talks.engine.insert(id, list(p), ANSWER_TOKENS, make_row(GREEDY))
        for id, p in enumerate(prompts)
    ]
    assert cached == [length - 1 for length in lengths]
    assert talks.answer() == once


def test_a_row_that_is_removed_leaves_what_it_had_computed(llama: nn.Module) -> None:
    talks = Talks(llama, PrefixCache(PLENTY_BYTES))
    talks.ask()
    while not talks.engine.step():
        pass
    talks.engine.remove(range(TALKS))
    lengths = [len(tokens) for tokens in talks.tokens]
    cached = [talks.engine.insert(id, t, 1, make_row(GREEDY)) for id, t in enumerate(talks.tokens)]
    assert cached == [length - 1 for length in lengths]


def test_two_thousand_requests_never_hold_more_than_the_limit(llama: nn.Module) -> None:
    limit = 100_000
    cache = PrefixCache(limit)
    engine = Engine(llama, max_running=16, prefill_step_tokens=256, name="m", prompt_cache=cache)
    chance = random.Random(5)
    starts = [chance.choices(range(10, 900), k=chance.randrange(1, 40)) for _ in range(12)]
    cached = waiting = 0
    for id in range(2000):
        prompt = chance.choice(starts) + chance.choices(range(10, 900), k=chance.randrange(1, 20))
        cached += engine.insert(id, prompt, chance.randrange(1, 4), make_row(GREEDY)) > 0
        while len(engine) >= 16:
            engine.step()
            waiting = max(waiting, cache.nbytes)
            assert cache.nbytes <= limit
    assert waiting > limit // 2, "the limit was never near"
    assert cached > 200, "the cache was hardly used"


@pytest.fixture
def llama(llama_path: Path) -> nn.Module:
    loaded, _ = load_model(llama_path)
    return loaded
