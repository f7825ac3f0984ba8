"""Calls that a model starts by itself are constrained by their tool's schema; other text is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.worker.outputs.switch_tool import (
    HEADER,
    CountingDetokenizer,
    make_text,
    tokens_of,
)
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.structured_output.constraint import CompiledGrammar
from worker.structured_output.vocabulary import Vocabulary


def constrain(
    vocabulary: Vocabulary,
    grammar: CompiledGrammar,
    tokens: Sequence[int],
    *,
    reasoning: bool = False,
) -> ToolCallConstraint:
    """The constraint of an answer after these tokens."""
    text = make_text(CountingDetokenizer(vocabulary), reasoning=reasoning)
    constraint = ToolCallConstraint(text, grammar)
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


@pytest.mark.parametrize(
    "before", ["", "Let me see.\n", HEADER + '{"state": "on"}}\n</tool_call>\n']
)
@pytest.mark.parametrize(
    "opening",
    ['{"name": "', '{"name":"', '[{"name" : "', '{"function_name": "', "<function="],
)
def test_the_name_of_a_call_is_held_to_the_declared_names(
    vocabulary: Vocabulary, grammar: CompiledGrammar, before: str, opening: str
) -> None:
    for begun, rest in (("", {"switch", "other"}), ("sw", {"itch"}), ("othe", {"r"})):
        text = f"{before}<tool_call>\n{opening}{begun}"
        allowed = next_texts(
            vocabulary, constrain(vocabulary, grammar, tokens_of(vocabulary, text))
        )
        assert allowed
        assert all(
            any(name.startswith(text) or text.startswith(name) for name in rest) for text in allowed
        )


def test_what_follows_a_name_is_held_until_the_arguments(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    for begun, may_begin in (("", '"'), ('"', ", \n\t\r"), ('", "a', "r")):
        text = '<tool_call>\n{"name": "switch' + begun
        allowed = next_texts(
            vocabulary, constrain(vocabulary, grammar, tokens_of(vocabulary, text))
        )
        assert allowed
        assert {each[0] for each in allowed} <= set(may_begin)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "switch", "id":',
        '<tool_call>\n{"name": "switch", "arguments":',
        '<tool_call>\n{"name": "swap',
        '<tool_call>\n{"arguments": {"name": "',
        '<tool_call>\n{"id": "',
        'Write {"name": "',
        'Write <tool_call>{"name": "',
        '```\n<tool_call>\n{"name": "',
        "<tool_call>\nNo, ",
    ],
)
def test_text_outside_the_name_of_a_call_is_not_held(
    vocabulary: Vocabulary, grammar: CompiledGrammar, text: str
) -> None:
    constraint = constrain(vocabulary, grammar, tokens_of(vocabulary, text))
    assert next_texts(vocabulary, constraint) is None


def test_a_call_inside_a_think_block_is_not_constrained(
    vocabulary: Vocabulary, grammar: CompiledGrammar
) -> None:
    tokens = tokens_of(vocabulary, HEADER + '{"state": "o')
    assert next_texts(vocabulary, constrain(vocabulary, grammar, tokens, reasoning=True)) is None
