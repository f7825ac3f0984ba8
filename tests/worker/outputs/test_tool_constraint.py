"""Calls that a model starts by itself are constrained by their tool's schema; other text is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from protocol.grammars import Lark
from worker.demo import demo_model_path
from worker.outputs.detokenizer import ByteDetokenizer
from worker.outputs.segmenter import Markers, Segmenter
from worker.outputs.text import Text
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.constraint import CompiledGrammar
from worker.structured_output.vocabulary import Vocabulary, make_vocabulary
from worker.tool_calls.formats import make_syntax
from worker.tool_calls.grammar import make_optional_call_grammar
from worker.tool_calls.parser import CompiledSyntax

HEADER = '<tool_call>\n{"name": "switch", "arguments": '
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "properties": {"state": {"enum": ["on", "off"]}},
                "required": ["state"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("switch", "other")
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    vocabulary = make_vocabulary(load_tokenizer(demo_model_path()), 1536, {1, 4})
    assert vocabulary is not None
    return vocabulary


@pytest.fixture(scope="module")
def grammar(vocabulary: Vocabulary) -> Iterator[CompiledGrammar]:
    compiler = GrammarCompiler(vocabulary)
    compiled = compiler.compile(Lark(make_optional_call_grammar(TOOLS, ["switch", "other"])))
    assert isinstance(compiled, CompiledGrammar), compiled
    yield compiled
    compiler.close()


def constrain(
    vocabulary: Vocabulary, grammar: CompiledGrammar, tokens: Sequence[int], *, thinks: bool = False
) -> ToolCallConstraint:
    """The constraint of an answer after these tokens."""
    syntax = CompiledSyntax(make_syntax("json_tools"), TOOLS, ["switch", "other"])
    segmenter = Segmenter(Markers("<think>", "</think>"), [syntax], reasoning=thinks)
    detokenizer = ByteDetokenizer(lambda token: vocabulary.tokenizer.decode_bytes([token]))
    constraint = ToolCallConstraint(Text(detokenizer, [], segmenter, trim=True), grammar)
    for token in tokens:
        constraint.accept(token)
    return constraint


def next_texts(vocabulary: Vocabulary, constraint: ToolCallConstraint) -> set[str] | None:
    """The tokens that may come next, as text; None: all tokens."""
    mask = constraint.mask()
    if mask is None:
        return None
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return {vocabulary.tokenizer.decode_str([int(token)]) for token in np.flatnonzero(bits)}


def tokens_of(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.tokenizer.tokenize_str(text, parse_special=True)


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "Write <tool_call> and then",
        "<tool_call> is a marker",
        '<tool_call>\n{"name": "unknown", "arguments": {"',
        HEADER.removesuffix(" "),
        HEADER + '{"state": "on"}',
        HEADER + '{"state": "on"}}\n</tool_call>\nThere you are',
        # It violates the schema already.
        HEADER + '{"city": "Paris',
    ],
)
def test_text_outside_the_arguments_of_a_call_is_not_constrained(
    vocabulary: Vocabulary, grammar: CompiledGrammar, text: str
) -> None:
    constraint = constrain(vocabulary, grammar, tokens_of(vocabulary, text))
    assert next_texts(vocabulary, constraint) is None


def test_a_call_is_constrained_by_its_schema_once_its_arguments_begin(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    for before in ("", "Let me see.\n", HEADER + '{"state": "on"}}\n</tool_call>\n'):
        text = before + HEADER + '{"state": "o'
        allowed = next_texts(
            vocabulary, constrain(vocabulary, grammar, tokens_of(vocabulary, text))
        )
        assert allowed is not None
        assert {"n", "f"} <= allowed
        assert all('n"}'.startswith(text) or "ff".startswith(text[:2]) for text in allowed)


def test_a_call_inside_a_think_block_is_not_constrained(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    tokens = tokens_of(vocabulary, HEADER + '{"state": "o')
    assert next_texts(vocabulary, constrain(vocabulary, grammar, tokens, thinks=True)) is None
