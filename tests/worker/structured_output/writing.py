"""Writes answers to a grammar without a model: a given text, or one drawn token by token."""

from __future__ import annotations

import random

import numpy as np

from protocol.grammars import Grammar
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.constraint import CompiledGrammar, GrammarConstraint
from worker.structured_output.vocabulary import Vocabulary


def compile_grammar(compiler: GrammarCompiler, grammar: Grammar) -> CompiledGrammar:
    """The grammar, which must be one."""
    outcome = compiler.compile(grammar)
    assert isinstance(outcome, CompiledGrammar), outcome
    return outcome


def allowed_tokens(constraint: GrammarConstraint) -> list[int]:
    """What may come next."""
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def accepts(grammar: CompiledGrammar, vocabulary: Vocabulary, text: str) -> bool:
    """Whether `text` is an answer; special tokens in it are such."""
    constraint = grammar.begin()
    for token in vocabulary.tokens.tokenize_str(text, parse_special=True):
        if token not in allowed_tokens(constraint) or constraint.complete:
            return False
        constraint.accept(token)
    return constraint.complete or vocabulary.ends[0] in allowed_tokens(constraint)


def write(
    grammar: CompiledGrammar, vocabulary: Vocabulary, seed: int, most: int = 400
) -> str | None:
    """A random answer; None where it is not at its end after so many tokens."""
    draw = random.Random(seed)
    constraint = grammar.begin()
    tokens: list[int] = []
    while len(tokens) < most:
        allowed = allowed_tokens(constraint)
        ended = constraint.complete or (vocabulary.ends[0] in allowed and draw.random() < 0.5)
        if ended:
            return vocabulary.tokens.decode_bytes(tokens).decode()
        choices = [token for token in allowed if token not in vocabulary.ends]
        # Closing brackets and quotes often, so that answers come to an end.
        closing = [t for t in choices if vocabulary.tokens.decode_bytes([t])[:1] in CLOSING]
        tokens.append(draw.choice(closing if closing and draw.random() < 0.5 else choices))
        constraint.accept(tokens[-1])
    return None


CLOSING = (b'"', b"}", b"]", b",")
