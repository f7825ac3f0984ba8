"""The demo model's vocabulary, and a grammar of optional tool calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from protocol.grammars import Lark
from tests.worker.outputs.switch_tool import NAMES, TOOLS
from worker.call_grammars.optional_calls import make_optional_call_grammar
from worker.demo import demo_model_path
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.constraint import CompiledGrammar
from worker.structured_output.vocabulary import Vocabulary, make_vocabulary
from worker.tool_calls.json_formats import JSON_TOOLS
from worker.tool_calls.openings import all_headers

VOCABULARY_SIZE = 1536
STOP_TOKEN_IDS = frozenset({1, 4})


@pytest.fixture(scope="package")
def vocabulary() -> Vocabulary:
    vocabulary = make_vocabulary(load_tokenizer(demo_model_path()), VOCABULARY_SIZE, STOP_TOKEN_IDS)
    assert vocabulary is not None
    return vocabulary


@pytest.fixture(scope="package")
def grammar(vocabulary: Vocabulary) -> Iterator[CompiledGrammar]:
    compiler = GrammarCompiler(vocabulary)
    text = make_optional_call_grammar(TOOLS, NAMES, {}, headers=all_headers([JSON_TOOLS]))
    compiled = compiler.compile(Lark(text))
    assert isinstance(compiled, CompiledGrammar), compiled
    yield compiled
    compiler.close()
