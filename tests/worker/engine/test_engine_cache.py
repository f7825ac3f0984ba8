"""Answers with the prompt cache are those without it, and only new tokens are computed."""

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
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0)
ANSWER_TOKENS = 20
SYSTEM_TOKENS = 150
TURNS = 10
CONVERSATIONS = 4
PLENTY_BYTES = 1 << 30


class Conversations:
    """Several conversations with one system prompt, which take turns on one engine."""

    def __init__(self, model: nn.Module, cache: PrefixCache) -> None:
        self.model = model
        self.engine = Engine(
            model,
            max_running=CONVERSATIONS,
            prefill=PrefillLimits(max_tokens=32),
            name="m",
            prompt_cache=cache,
        )
        self.rng = random.Random(1)
        system = self._draw(SYSTEM_TOKENS)
        self.tokens = [list(system) for _ in range(CONVERSATIONS)]

    def ask(self) -> list[int]:
        """Add a question to each; the number of cached tokens of each prompt."""
        for tokens in self.tokens:
            tokens += self._draw(self.rng.randrange(2, 60))
        return [
            self.engine.insert(id, list(tokens), ANSWER_TOKENS, make_row(GREEDY), [SYSTEM_TOKENS])
            for id, tokens in enumerate(self.tokens)
        ]

    def answer(self) -> list[list[int]]:
        """The answers, which are added to the chats."""
        answers: list[list[int]] = [[] for _ in self.tokens]
        while len(self.engine):
            for token in self.engine.step():
                answers[token.id].append(token.token)
        for tokens, answer in zip(self.tokens, answers, strict=True):
            tokens += answer
        return answers

    def expect(self, prompt: list[int]) -> list[int]:
        """mlx-lm's own answer, without a batch and a cache."""
        steps = generate_step(mx.array(prompt), self.model, max_tokens=ANSWER_TOKENS)
        return [int(token) for token, _ in steps]

    def _draw(self, count: int) -> list[int]:
        return self.rng.choices(range(10, VOCABULARY_SIZE), k=count)


@pytest.fixture(params=["llama", "qwen", "gemma", "hybrid"])
def model(request: pytest.FixtureRequest, model_paths: dict[str, Path]) -> nn.Module:
    if request.param == "hybrid":
        return make_hybrid()
    loaded, _ = load_model(model_paths[request.param])
    return loaded


@pytest.mark.long
def test_each_turn_computes_only_its_new_tokens_and_is_answered_as_without_a_cache(
    model: nn.Module,
) -> None:
    chats = Conversations(model, PrefixCache(PLENTY_BYTES))
    cached = [0] * CONVERSATIONS
    for _ in range(TURNS):
        assert chats.ask() == cached
        expected = [chats.expect(tokens) for tokens in chats.tokens]
        assert chats.answer() == expected
        cached = [len(tokens) for tokens in chats.tokens]


def test_conversations_that_differ_after_the_system_prompt_reuse_it(model: nn.Module) -> None:
    cache = PrefixCache(PLENTY_BYTES)
    first, second = Conversations(model, cache), Conversations(model, cache)
    first.ask()
    first.answer()
    second.rng.seed(2)
    assert all(SYSTEM_TOKENS <= cached < SYSTEM_TOKENS + 3 for cached in second.ask())
    expected = [second.expect(tokens) for tokens in second.tokens]
    assert second.answer() == expected


def test_a_repeated_prompt_computes_only_its_last_token(model: nn.Module) -> None:
    chats = Conversations(model, PrefixCache(PLENTY_BYTES))
    chats.ask()
    prompts = [list(tokens) for tokens in chats.tokens]
    once = chats.answer()
    chats.tokens = prompts
    lengths = [len(prompt) for prompt in prompts]
    cached = [
        chats.engine.insert(id, list(p), ANSWER_TOKENS, make_row(GREEDY))
        for id, p in enumerate(prompts)
    ]
    assert cached == [length - 1 for length in lengths]
    assert chats.answer() == once


def test_the_computed_tokens_of_a_removed_row_are_cached(llama: nn.Module) -> None:
    chats = Conversations(llama, PrefixCache(PLENTY_BYTES))
    chats.ask()
    started: set[int] = set()
    while len(started) < CONVERSATIONS:
        started |= {token.id for token in chats.engine.step()}
    chats.engine.remove(range(CONVERSATIONS))
    lengths = [len(tokens) for tokens in chats.tokens]
    cached = [chats.engine.insert(id, t, 1, make_row(GREEDY)) for id, t in enumerate(chats.tokens)]
    assert cached == [length - 1 for length in lengths]


@pytest.mark.long
def test_the_cache_of_two_thousand_requests_never_exceeds_the_limit(llama: nn.Module) -> None:
    limit = 100_000
    cache = PrefixCache(limit)
    engine = Engine(
        llama, max_running=16, prefill=PrefillLimits(max_tokens=256), name="m", prompt_cache=cache
    )
    rng = random.Random(5)
    starts = [rng.choices(range(10, 900), k=rng.randrange(1, 40)) for _ in range(12)]
    cached = most_bytes = 0
    for id in range(2000):
        prompt = rng.choice(starts) + rng.choices(range(10, 900), k=rng.randrange(1, 20))
        cached += engine.insert(id, prompt, rng.randrange(1, 4), make_row(GREEDY)) > 0
        while len(engine) >= 16:
            engine.step()
            most_bytes = max(most_bytes, cache.nbytes)
            assert cache.nbytes <= limit
    assert most_bytes > limit // 2, "the cache was never near its limit"
    assert cached > 200, "the cache was rarely used"


@pytest.fixture
def llama(llama_path: Path) -> nn.Module:
    loaded, _ = load_model(llama_path)
    return loaded
