"""Holds a tool call to its tool's schema; implements `worker.engine.sampler.Constraint`.

The request's own text parser says what a call is: until it announces one the model is
free, so a marker in prose, or in a think block, constrains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from worker.outputs.text import Text
from worker.structured_output.constraint import (
    BitMask,
    CompiledGrammar,
    GrammarConstraint,
    GrammarError,
)
from worker.tool_calls.deltas import ToolCallArguments, ToolCallStart

logger = logging.getLogger(__name__)


class ToolCallConstraint:
    """The constraint of one answer: the `text` that its client reads, and a grammar of
    `offer_calls`. Tokens of `stop_token_ids` are no text.

    Where a call has left the grammar already as it starts, or the grammar cannot be
    followed, the model writes the call freely: it is parsed all the same.
    """

    complete = False

    def __init__(
        self, text: Text, grammar: CompiledGrammar, stop_token_ids: AbstractSet[int] = frozenset()
    ) -> None:
        self._text = text
        self._grammar = grammar
        self._stop_token_ids = stop_token_ids
        self._constraint: GrammarConstraint | None = None

    def accept(self, token: int) -> None:
        """The answer has this token too."""
        if token in self._stop_token_ids:
            return
        try:
            if self._constraint is not None:
                self._constraint.accept(token)
        except GrammarError as error:
            self._give_up(error)
        self._follow(token)

    def mask(self) -> BitMask | None:
        """The tokens that may come next in a call's arguments; None, all tokens, elsewhere."""
        if self._constraint is None:
            return None
        try:
            return self._constraint.mask()
        except GrammarError as error:
            self._give_up(error)
            return None

    def _follow(self, token: int) -> None:
        """Parse the token; a call that it starts is constrained from here on."""
        started: GrammarConstraint | None = None
        for delta in self._text.push_ahead(token):
            try:
                match delta:
                    case ToolCallStart(_, name):
                        started = self._constraint = self._grammar.begin()
                        started.accept_text(f"{name}\n")
                    case ToolCallArguments(_, text) if started is not None:
                        started.accept_text(text)
            except GrammarError as error:
                self._give_up(error)
                started = None
        if not self._text.in_arguments:
            self._constraint = None

    def _give_up(self, error: GrammarError) -> None:
        logger.warning("a tool call is not constrained to its schema: %s", error)
        self._constraint = None
