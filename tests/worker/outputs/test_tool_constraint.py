"""Calls that a model opens by itself are held to their tool's schema, and nothing else is."""

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
from worker.tool_calls.grammar import offer_calls
from worker.tool_calls.parser import SyntaxPatterns

HEAD = '<tool_call>\n{"name": "switch", "arguments": '
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
    made = make_vocabulary(load_tokenizer(demo_model_path()), 1536, {1, 4})
    assert made is not None
    return made


@pytest.fixture(scope="module")
def grammar(vocabulary: Vocabulary) -> Iterator[CompiledGrammar]:
    compiler = GrammarCompiler(vocabulary)
    compiled = compiler.compile(Lark(offer_calls(TOOLS, ["switch", "other"])))
    assert isinstance(compiled, CompiledGrammar), compiled
    yield compiled
    compiler.close()


def constrain(
    vocabulary: Vocabulary, grammar: CompiledGrammar, tokens: Sequence[int], *, thinks: bool = False
) -> ToolCallConstraint:
    """The constraint of an answer that has these tokens."""
    patterns = SyntaxPatterns(make_syntax("json_tools"), TOOLS, ["switch", "other"])
    segmenter = Segmenter(Markers("<think>", "</think>"), [patterns], reasoning=thinks)
    detokenizer = ByteDetokenizer(lambda token: vocabulary.tokenizer.decode_bytes([token]))
    calls = ToolCallConstraint(Text(detokenizer, [], segmenter, trim=True), grammar)
    for token in tokens:
        calls.accept(token)
    return calls


def next_texts(vocabulary: Vocabulary, calls: ToolCallConstraint) -> set[str] | None:
    """What may come next; None: anything."""
    mask = calls.mask()
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
        HEAD.removesuffix(" "),
        HEAD + '{"state": "on"}',
        HEAD + '{"state": "on"}}\n</tool_call>\nThere you are',
        # What is out of the schema already is read as before.
        HEAD + '{"city": "Paris',
    ],
)
def test_what_is_no_call_yet_or_one_no_more_is_free(
    vocabulary: Vocabulary, grammar: CompiledGrammar, text: str
) -> None:
    calls = constrain(vocabulary, grammar, tokens_of(vocabulary, text))
    assert next_texts(vocabulary, calls) is None


def test_a_call_is_held_to_its_schema_once_its_arguments_begin(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    for before in ("", "Let me see.\n", HEAD + '{"state": "on"}}\n</tool_call>\n'):
        text = before + HEAD + '{"state": "o'
        allowed = next_texts(
            vocabulary, constrain(vocabulary, grammar, tokens_of(vocabulary, text))
        )
        assert allowed is not None
        assert {"n", "f"} <= allowed
        assert all('n"}'.startswith(text) or "ff".startswith(text[:2]) for text in allowed)


def test_a_call_within_a_think_block_is_thought(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    tokens = tokens_of(vocabulary, HEAD + '{"state": "o')
    assert next_texts(vocabulary, constrain(vocabulary, grammar, tokens, thinks=True)) is None
