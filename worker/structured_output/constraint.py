"""One answer held to a grammar, token by token; implements `worker.engine.sampler.Constraint`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from worker.structured_output.vocabulary import Vocabulary

MASK_WORD_BITS = 32
BitMask = np.ndarray[Any, np.dtype[np.int32]]

# Bounds of llguidance (1.9.1) on one token's work, below its own: with rows of 2,000 items an
# ambiguous grammar took 0.1 s a token, with 500 it took 7 ms before it was refused.
LIMITS = LLParserLimits(
    max_items_in_row=500,
    step_max_items=10_000,
    step_lexer_fuel=50_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
# What all the tokens of an answer may cost the loop on average, once the first are made.
BUDGET_S = 0.5
BUDGET_PER_TOKEN_S = 0.005
MAX_REASON_CHARS = 200


class GrammarError(Exception):
    """Why a grammar cannot be used, or an answer not be held to it."""


class GrammarConstraint:
    """What may come next; `complete` once nothing but the answer's end can.

    Raises:
        GrammarError: by each method, where the grammar cannot be followed any further.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._ends = end_mask(vocabulary)
        self._budget_s = BUDGET_S
        self.complete = False

    def accept(self, token: int) -> None:
        """The answer has this token too."""
        if self.complete:
            return
        began = time.thread_time()
        if not self._matcher.consume_token(token):
            raise GrammarError(reason_of(self._matcher))
        self.complete = self._matcher.is_stopped()
        self._spend(time.thread_time() - began)
        self._budget_s += BUDGET_PER_TOKEN_S

    def accept_text(self, text: str) -> None:
        """The answer has this text too, however its tokens have cut it."""
        for token in self._vocabulary.tokens.greedy_tokenize(text):
            self.accept(token)

    def mask(self) -> BitMask:
        """The tokens that may come next, bit n of word n // 32 for token n; never none."""
        if self.complete:
            return self._ends
        began = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.int32)[: len(self._ends)]
        if self._matcher.is_error():
            raise GrammarError(reason_of(self._matcher))
        if not np.any(mask):
            raise GrammarError("no token of the model can continue the answer")
        # Some ends are seen only now, by what is left.
        self.complete = not np.any(mask & ~self._ends)
        self._spend(time.thread_time() - began)
        return mask

    def _spend(self, seconds: float) -> None:
        """A grammar that is slow to follow must not hold up the other answers."""
        self._budget_s -= seconds
        if self._budget_s < 0:
            raise GrammarError("it takes too long to follow")


class CompiledGrammar:
    """A grammar of one vocabulary, ready to begin answers. `size_bytes` is about what it takes."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, size_bytes: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self.size_bytes = size_bytes

    def begin(self) -> GrammarConstraint:
        """The constraint of an answer that has no token yet."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocabulary)


def compile_text(text: str, vocabulary: Vocabulary, size_bytes: int = 0) -> CompiledGrammar:
    """Compile llguidance's grammar text; the interpreter lock is free meanwhile.

    Raises:
        GrammarError: it is no grammar, or larger than `LIMITS`.
    """
    matcher = LLMatcher(vocabulary.tokens, text, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise GrammarError(reason_of(matcher))
    return CompiledGrammar(matcher, vocabulary, size_bytes)


def end_mask(vocabulary: Vocabulary) -> BitMask:
    """The mask that allows the vocabulary's ends alone."""
    words = np.zeros(-(-vocabulary.size // MASK_WORD_BITS), np.uint32)
    for end in vocabulary.ends:
        words[end // MASK_WORD_BITS] |= np.uint32(1 << end % MASK_WORD_BITS)
    return words.view(np.int32)


def reason_of(matcher: LLMatcher) -> str:
    """What llguidance finds wrong, without its own state and the place in its source."""
    told = matcher.get_error().partition("\n<")[0].removeprefix("panic: ")
    return " ".join(told.split())[:MAX_REASON_CHARS] or "it cannot be compiled"
