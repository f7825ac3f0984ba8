"""The demo model's vocabulary, and a compiler for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from worker.demo import demo_model_path
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.vocabulary import Vocabulary, make_vocabulary

VOCABULARY_SIZE = 1536
STOP_TOKEN_IDS = {1, 4}


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    vocabulary = make_vocabulary(load_tokenizer(demo_model_path()), VOCABULARY_SIZE, STOP_TOKEN_IDS)
    assert vocabulary is not None
    return vocabulary


@pytest.fixture(scope="session")
def compiler(vocabulary: Vocabulary) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(vocabulary)
    yield compiler
    compiler.close()
