"""all-MiniLM-L6-v2 gives the vectors that ONNX Runtime computes of it, and they make sense."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.models.embedding import minilm
from tests.models.smollm2 import PackageUnavailable
from worker.embedding.model import EmbeddingModel, load_embedding_model
from worker.embedding.texts import EmbeddingTexts, open_texts

# ONNX Runtime takes half a second to import; the README's example uses the model with each run.
pytestmark = pytest.mark.long

LEAST_COSINE = 0.9999
BATCH_TOLERANCE = 1e-5
SENTENCES = 50
# A sentence, one of the same meaning, and one that shares words with it and means another thing.
TRIPLES = (
    ("A man is eating food.", "A person has a meal.", "A man is riding a horse."),
    ("How do I reset my password?", "I forgot my login and need a new one.", "How do I cook rice?"),
    ("The bank raised its interest rates.", "Borrowing money costs more now.",
     "We sat on the bank of the river."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch.", "The dog runs outside."),
    ("Paris is the capital of France.", "The French government sits in Paris.",
     "Tokyo is the capital of Japan."),
    ("It is raining heavily today.", "There is a downpour.", "The sun is shining today."),
    ("The car needs a new engine.", "The vehicle's motor has to be replaced.",
     "The car is painted in red."),
    ("She plays the violin in an orchestra.", "She is a classical musician.",
     "She plays tennis on Sundays."),
    ("The function returns a list of integers.", "This method gives back an array of numbers.",
     "The library returns books to the shelf."),
    ("Doctors recommend more exercise.", "Physicians advise being more active.",
     "Doctors work in hospitals."),
)  # fmt: skip
OTHERS = (
    "", "a", "Naïve café owners résumé their façade.", "3.14159 is about pi", "E = mc²",
    "def f(x): return x + 1", "https://example.org/a?b=c", "日本語のテキスト", "Привет, мир",
    "😀😀", "ALL CAPITALS SHOUT", "supercalifragilisticexpialidocious", "[SEP] is written here",
    "a\ttab\nand a line break", "  spaces  around  ", "don't can't won't",
    "(brackets) [and] {braces}",
    "price: $19.99 (50% off!)", "The quick brown fox jumps over the lazy dog.",
    "very " * 22 + "long",
)  # fmt: skip
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model's folder; without its packages the tests are skipped, but in CI they fail."""
    try:
        return minilm.folder_path()
    except PackageUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"the model's packages are required here: {error}")
        pytest.skip(f"the model's packages are not available: {error}")


@pytest.fixture(scope="module")
def texts(folder: Path) -> EmbeddingTexts:
    return open_texts(folder)


@pytest.fixture(scope="module")
def model(folder: Path, texts: EmbeddingTexts) -> EmbeddingModel:
    return load_embedding_model(folder, texts.facts)


@pytest.fixture(scope="module")
def rows(texts: EmbeddingTexts) -> list[list[int]]:
    return texts.tokenize([*(each for triple in TRIPLES for each in triple), *OTHERS])


@pytest.fixture(scope="module")
def vectors(model: EmbeddingModel, rows: list[list[int]]) -> Vectors:
    """The vectors of all sentences, in one batch."""
    return np.array(model.embed(rows))


def reference(session: Any, row: list[int]) -> Vectors:
    """The mean of a row's states by ONNX Runtime, with a length of 1."""
    ids = np.array([row])
    inputs = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    [states] = session.run(None, {"input_ids": ids, **inputs})
    mean: Vectors = states[0].mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_each_vector_is_that_of_onnx_runtime(
    folder: Path, rows: list[list[int]], vectors: Vectors
) -> None:
    session = onnxruntime.InferenceSession(str(folder / minilm.ONNX_FILE))
    expected = np.array([reference(session, row) for row in rows])
    assert vectors.shape == (SENTENCES, minilm.CONFIG["hidden_size"])
    assert (vectors * expected).sum(axis=1).min() >= LEAST_COSINE


def test_sentences_of_the_same_meaning_are_nearer_than_others(vectors: Vectors) -> None:
    for index, triple in enumerate(TRIPLES):
        sentence, same, other = vectors[3 * index : 3 * index + 3]
        assert sentence @ same > sentence @ other, triple


def test_a_batch_of_mixed_lengths_gives_the_vectors_of_single_sentences(
    model: EmbeddingModel, rows: list[list[int]], vectors: Vectors
) -> None:
    assert max(map(len, rows)) > 10 * min(map(len, rows))
    alone = np.concatenate([np.array(model.embed([row])) for row in rows])
    assert np.abs(vectors - alone).max() < BATCH_TOLERANCE
