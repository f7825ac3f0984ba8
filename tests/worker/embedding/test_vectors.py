"""Vectors and scores equal those that sentence-transformers computes of the same folders."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from tests.models.embedding.samples import PAIRS, SAMPLES, TEXTS
from tests.worker.embedding.opening import (
    EXPECTED,
    Opened,
    compute,
    open_folder,
    settings_of,
    write_sample,
)
from worker.embedding.texts import EmbeddingTexts
from worker.models.weight_loader import computation_of

TOLERANCE, BATCH_TOLERANCE = 1e-4, 1e-5
Open = Callable[[str], Opened]


@pytest.fixture(scope="module")
def open_sample(tmp_path_factory: pytest.TempPathFactory) -> Open:
    opened: dict[str, Opened] = {}

    def open_once(name: str) -> Opened:
        if name not in opened:
            folder = write_sample(name, tmp_path_factory.mktemp(name))
            opened[name] = open_folder(folder, settings_of(name))
        return opened[name]

    return open_once


def rows_of(name: str, texts: EmbeddingTexts) -> list[list[int]]:
    sample = SAMPLES[name]
    if sample.kind == "rerank":
        return [texts.pair(query, document) for query, document in PAIRS]
    return texts.tokenize(TEXTS, texts.prompt_of(sample.prompt_name))


def test_a_sample_is_stored_for_each_kind_of_model() -> None:
    assert list(EXPECTED) == list(SAMPLES)
    assert {SAMPLES[name].kind for name in EXPECTED} == {"embedding", "rerank"}


@pytest.mark.parametrize("name", SAMPLES)
def test_texts_and_pairs_have_the_token_ids_of_the_folder(name: str, open_sample: Open) -> None:
    assert rows_of(name, open_sample(name).texts) == EXPECTED[name]["rows"]


@pytest.mark.parametrize("name", SAMPLES)
def test_values_are_those_of_sentence_transformers(name: str, open_sample: Open) -> None:
    model = open_sample(name).model
    expected = np.array(EXPECTED[name]["values"])
    values = compute(model, EXPECTED[name]["rows"])
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() < TOLERANCE
    # The values of no two rows are the same: a constant would not pass.
    assert len(np.unique(np.round(expected, 4), axis=0)) == len(expected)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_of_mixed_lengths_gives_what_single_rows_give(name: str, open_sample: Open) -> None:
    model = open_sample(name).model
    rows = EXPECTED[name]["rows"]
    alone = np.concatenate([compute(model, [row]) for row in rows])
    for order in (rows, rows[::-1]):
        together = compute(model, order)
        together = together if order is rows else together[::-1]
        assert np.abs(together - alone).max() < BATCH_TOLERANCE * max(1.0, np.abs(alone).max())


@pytest.mark.parametrize("name", SAMPLES)
def test_slices_of_tokens_give_what_whole_rows_give(name: str, open_sample: Open) -> None:
    model = open_sample(name).model
    rows = EXPECTED[name]["rows"]
    compute_parts = computation_of(model)
    whole, sliced = compute_parts(rows), compute_parts(rows, 0.0)
    assert len(sliced) > 3 * len(whole)
    # One by one, as beside streams.
    for part in sliced:
        mx.eval(part)
    scale = max(1.0, np.abs(np.array(whole[-1])).max())
    assert np.abs(np.array(sliced[-1]) - np.array(whole[-1])).max() < BATCH_TOLERANCE * scale


@pytest.mark.parametrize("name", ["bert-mean", "embedding-gemma", "qwen3-reranker"])
def test_a_broken_weight_gives_values_that_are_not_finite(name: str, open_sample: Open) -> None:
    model = open_sample(name).model
    rows = EXPECTED[name]["rows"]
    array = next(each for each in model.arrays() if each.ndim == 1)
    kept = mx.array(array)
    for broken in (mx.nan, mx.inf):
        array[:] = broken
        assert not np.isfinite(compute(model, rows)).any()
    array[:] = kept
    assert np.isfinite(compute(model, rows)).all()
