"""The demo model's vocabulary, and what compiles its grammars."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from worker.demo import demo_model_path
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.vocabulary import Vocabulary, make_vocabulary

VOCABULARY_SIZE = 1536
ENDS = {1, 4}


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    made = make_vocabulary(load_tokenizer(demo_model_path()), VOCABULARY_SIZE, ENDS)
    assert made is not None
    return made


@pytest.fixture(scope="session")
def compiler(vocabulary: Vocabulary) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(vocabulary)
    yield compiler
    compiler.close()
