"""A draft model continues each text as it would alone, whatever rows join, leave and go on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model

from tests.models import unbatched
from worker.engine.batches import row_positions
from worker.engine.batches.speculation.draft_model import MAX_JOINT_TOKENS, DraftModel

VOCABULARY = 200
ROUNDS = 30
# Of positions and masks.
MASK_BYTES = 1 << 16


@dataclass(eq=False)
class GrowingText:
    tokens: list[int]

    def read(self) -> list[int]:
        return self.tokens


def is_greedy(model: nn.Module, tokens: list[int], continuation: list[int]) -> bool:
    """Whether the model without a cache continues the tokens so."""
    logits = model(mx.array([[*tokens, *continuation[:-1]]]))[0, len(tokens) - 1 :, :VOCABULARY]
    return mx.argmax(logits, axis=-1).tolist() == continuation


@pytest.fixture(scope="module")
def model(llama_path: Path) -> nn.Module:
    return load_model(llama_path)[0]


@pytest.mark.parametrize("seed", range(2))
def test_drafts_are_what_the_model_gives_alone(
    model: nn.Module, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 8)
    rng = random.Random(seed)
    draft = DraftModel(model, VOCABULARY)
    texts: list[GrowingText] = []
    for _ in range(ROUNDS):
        if len(texts) < 4 and rng.random() < 0.4:
            length = rng.choice([1, 2, 15, 16, 17, 40])
            texts.append(GrowingText([rng.randrange(VOCABULARY) for _ in range(length)]))
        if len(texts) > 1 and rng.random() < 0.15:
            draft.release(texts.pop(rng.randrange(len(texts))))
        for text in texts:
            if not draft.is_ready(text):
                draft.prepare(text, 0.0)
        ready = [text for text in texts if draft.is_ready(text) and rng.random() < 0.7]
        if not ready:
            continue
        count = rng.randint(1, 6)
        proposed = draft.propose(ready, count)
        for text, tokens in zip(ready, proposed, strict=True):
            assert len(tokens) == count
            assert is_greedy(model, text.tokens, tokens)
        for text in texts:
            # Some of the draft is right, and then comes another token, or much of another source.
            right = proposed[ready.index(text)][: rng.randint(0, count)] if text in ready else []
            more = 1 if rng.random() < 0.8 else rng.randint(2, 3 * MAX_JOINT_TOKENS)
            text.tokens += [*right, *(rng.randrange(VOCABULARY) for _ in range(more))]
    for text in texts:
        draft.release(text)
    assert len(draft) == 0


@pytest.mark.parametrize("spare_bytes", [0, 1 << 40])
def test_what_it_holds_is_what_its_rows_reserve_and_its_slack(
    model: nn.Module, spare_bytes: int
) -> None:
    rng, most_slack = random.Random(1), 0.0
    draft = DraftModel(model, VOCABULARY)
    draft.grow_within(lambda: spare_bytes)
    draft.measure()
    start_bytes = mx.get_active_memory()
    texts: list[GrowingText] = []
    for number in range(ROUNDS):
        if len(texts) < 12 and rng.random() < 0.6:
            length = rng.choice([20, 100, 250, 300])
            texts.append(GrowingText([rng.randrange(VOCABULARY) for _ in range(length)]))
        if len(texts) > 1 and rng.random() < 0.1:
            draft.release(texts.pop(rng.randrange(len(texts))))
        for text in texts:
            while not draft.is_ready(text):
                draft.prepare(text, 0.0)
        if not texts:
            continue
        for text, tokens in zip(texts, draft.propose(texts, 4), strict=True):
            assert is_greedy(model, text.tokens, tokens)
            text.tokens += [*tokens[: rng.randint(0, 4)], rng.randrange(VOCABULARY)]
        held_bytes = mx.get_active_memory() - start_bytes - MASK_BYTES
        reserved_bytes = draft.kv_cost.batch_bytes(len(texts), longest_of(texts) + 4)
        assert held_bytes - draft.slack_bytes <= reserved_bytes
        most_slack = max(most_slack, draft.slack_bytes / reserved_bytes)
        if number % 8 == 0:
            draft.squeeze()
            assert draft.slack_bytes == 0
    assert (most_slack > 0.5) == (spare_bytes > 0)


def longest_of(texts: list[GrowingText]) -> int:
    return max(len(text.tokens) for text in texts)


def test_its_passes_are_measured(model: nn.Module) -> None:
    draft = DraftModel(model, VOCABULARY)
    assert draft.pass_s() == 0
    draft.measure()
    assert draft.pass_s() > 0
    assert len(draft) == 0


def test_tokens_that_it_has_not_are_no_error(model: nn.Module) -> None:
    draft, text = DraftModel(model, VOCABULARY), GrowingText([5, 10**6, 7])
    draft.prepare(text, 0.0)
    [tokens] = draft.propose([text], 3)
    assert is_greedy(model, [5, 0, 7], tokens)


def test_a_model_whose_caches_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="plain attention"):
        DraftModel(unbatched.make_model("mamba"), VOCABULARY)
