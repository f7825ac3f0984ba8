"""Constrains tool calls by their tools' schemas; implements `worker.engine.sampler.Constraint`.

The text parser of the request finds the calls. Until it reports one, all tokens are allowed,
so a marker in content or in a think block constrains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from worker.call_readers.deltas import ToolCallArguments, ToolCallStart
from worker.outputs.text import Text
from worker.structured_output.constraint import (
    BitMask,
    CompiledGrammar,
    GrammarConstraint,
    GrammarError,
)

logger = logging.getLogger(__name__)


class ToolCallConstraint:
    """The constraint of one answer; `grammar` is a compiled `make_optional_call_grammar`.

    Tokens of `stop_token_ids` are not part of the text. A call that already violates its schema
    when it is found, or whose grammar fails, is parsed but not constrained any further.
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
        """Advance by the token that was drawn."""
        if token in self._stop_token_ids:
            return
        try:
            if self._constraint is not None:
                self._constraint.accept(token)
        except GrammarError as error:
            self._stop_constraining(error)
        self._parse(token)

    def mask(self) -> BitMask | None:
        """The tokens that may come next in a call's arguments; None (all tokens) elsewhere."""
        if self._constraint is None:
            return None
        try:
            return self._constraint.mask()
        except GrammarError as error:
            self._stop_constraining(error)
            return None

    def _parse(self, token: int) -> None:
        """Parse the token; constrain the call that it starts, and stop after a call's arguments."""
        started: GrammarConstraint | None = None
        for delta in self._text.push_ahead(token):
            try:
                match delta:
                    case ToolCallStart(_, name):
                        started = self._constraint = self._grammar.create_constraint()
                        started.accept_text(f"{name}\n")
                    case ToolCallArguments(_, text) if started is not None:
                        started.accept_text(text)
            except GrammarError as error:
                self._stop_constraining(error)
                started = None
        if not self._text.in_arguments:
            self._constraint = None

    def _stop_constraining(self, error: GrammarError) -> None:
        logger.warning("a tool call is not constrained by its schema: %s", error)
        self._constraint = None
