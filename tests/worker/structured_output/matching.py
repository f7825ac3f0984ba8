"""Compiles grammars and matches texts against them without a model."""

from __future__ import annotations

import numpy as np

from protocol.grammars import Grammar
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.constraint import CompiledGrammar, GrammarConstraint
from worker.structured_output.vocabulary import Vocabulary


def compile_grammar(compiler: GrammarCompiler, grammar: Grammar) -> CompiledGrammar:
    """Compile a grammar that must be valid."""
    result = compiler.compile(grammar)
    assert isinstance(result, CompiledGrammar), result
    return result


def allowed_tokens(constraint: GrammarConstraint) -> list[int]:
    """The token ids that may come next."""
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def accepts(grammar: CompiledGrammar, vocabulary: Vocabulary, text: str) -> bool:
    """Whether `text` is a complete answer; special tokens in it are parsed as such."""
    constraint = grammar.create_constraint()
    for token in vocabulary.tokenizer.tokenize_str(text, parse_special=True):
        if token not in allowed_tokens(constraint) or constraint.complete:
            return False
        constraint.accept(token)
    return constraint.complete or vocabulary.stop_token_ids[0] in allowed_tokens(constraint)
