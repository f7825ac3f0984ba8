"""Constrains one answer by a grammar; implements `worker.engine.sampler.Constraint`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from worker.structured_output.vocabulary import Vocabulary

MASK_WORD_BITS = 32
BitMask = np.ndarray[Any, np.dtype[np.int32]]

# Limits on llguidance's work for one token, lower than its defaults (1.9.1): with rows of 2,000
# items an ambiguous grammar took 0.1 s per token, with 500 it took 7 ms until it was refused.
LIMITS = LLParserLimits(
    # A choice between 512 tools has three items of each; its masks take 3 ms.
    max_items_in_row=2_000,
    step_max_items=10_000,
    step_lexer_fuel=50_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
# The time that an answer may take on the device thread: at first, and more with each token.
BUDGET_S = 0.5
BUDGET_PER_TOKEN_S = 0.005
MAX_REASON_CHARS = 200


class GrammarError(Exception):
    """A grammar that cannot be compiled, or that cannot constrain an answer any further.

    With `timed_out` its compilation took too long, which depends on the machine's load too.
    """

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class GrammarConstraint:
    """The state of a grammar after the tokens so far; `complete` once only a stop token may follow.

    Raises:
        GrammarError: from each method, if a token violates the grammar or the work exceeds a limit.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._stop_mask = make_stop_mask(vocabulary)
        self._others_mask = ~self._stop_mask
        self._budget_s = BUDGET_S
        self.complete = False

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        if self.complete:
            return
        start = time.thread_time()
        if not self._matcher.consume_token(token):
            raise GrammarError(reason_of(self._matcher))
        self.complete = self._matcher.is_stopped()
        self._spend(time.thread_time() - start)
        self._budget_s += BUDGET_PER_TOKEN_S

    def accept_text(self, text: str) -> None:
        """Advance by text, whatever its tokens were."""
        for token in self._vocabulary.tokenizer.greedy_tokenize(text):
            self.accept(token)

    @property
    def may_end(self) -> bool:
        """Whether what was accepted is a whole text of the grammar, which may go on."""
        return self.complete or bool(self._matcher.is_accepting())

    def mask(self) -> BitMask:
        """The tokens that may come next: bit n % 32 of word n // 32 allows token n; never empty."""
        if self.complete:
            return self._stop_mask
        start = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.int32)[: len(self._stop_mask)]
        if self._matcher.is_error():
            raise GrammarError(reason_of(self._matcher))
        # llguidance does not always report the end of the answer in `is_stopped`.
        ended = not (mask & self._others_mask).any()
        if ended and not mask.any():
            raise GrammarError("no token of the model can continue the answer")
        self.complete = ended
        self._spend(time.thread_time() - start)
        return mask

    def _spend(self, seconds: float) -> None:
        """Fail a grammar that takes too long: it would delay all other answers."""
        self._budget_s -= seconds
        if self._budget_s < 0:
            raise GrammarError("it takes too much time per token")


class CompiledGrammar:
    """A grammar compiled for one vocabulary; `size_bytes` is its approximate memory."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, size_bytes: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self.size_bytes = size_bytes

    def create_constraint(self) -> GrammarConstraint:
        """A constraint for a new answer."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocabulary)


def compile_text(text: str, vocabulary: Vocabulary, size_bytes: int = 0) -> CompiledGrammar:
    """Compile llguidance's grammar text; releases the GIL meanwhile.

    Raises:
        GrammarError: the grammar is invalid or exceeds `LIMITS`.
    """
    matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise GrammarError(reason_of(matcher))
    return CompiledGrammar(matcher, vocabulary, size_bytes)


def make_stop_mask(vocabulary: Vocabulary) -> BitMask:
    """A mask that allows only the stop tokens."""
    words = np.zeros(-(-vocabulary.size // MASK_WORD_BITS), np.uint32)
    for token in vocabulary.stop_token_ids:
        words[token // MASK_WORD_BITS] |= np.uint32(1 << token % MASK_WORD_BITS)
    return words.view(np.int32)


def reason_of(matcher: LLMatcher) -> str:
    """llguidance's error message, without its internal state and source location."""
    message = matcher.get_error().partition("\n<")[0].removeprefix("panic: ")
    return " ".join(message.split())[:MAX_REASON_CHARS] or "it cannot be compiled"
