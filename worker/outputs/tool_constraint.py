"""Constrains tool calls to declared names and to their tools' schemas.

It implements `worker.engine.sampler.Constraint`. The text parser of the request finds the calls.
Until it reports one, or the beginning of one's name, all tokens are allowed, so a marker in
content or in a think block constrains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from worker.call_grammars.optional_calls import begin_header
from worker.call_readers.deltas import ToolCallArguments, ToolCallStart
from worker.outputs.text import Text
from worker.structured_output.constraint import (
    BitMask,
    CompiledGrammar,
    GrammarConstraint,
    GrammarError,
)
from worker.tool_calls.openings import PartialName

logger = logging.getLogger(__name__)


class ToolCallConstraint:
    """The constraint of one answer; `grammar` is a compiled `make_optional_call_grammar`.

    Tokens of `stop_token_ids` are not part of the text. A call that already violates its schema
    when it is found, or whose grammar fails, is parsed but not constrained any further.
    """

    complete = False

    def __init__(
        self,
        text: Text,
        grammar: CompiledGrammar,
        stop_token_ids: AbstractSet[int] = frozenset(),
    ) -> None:
        self._text = text
        self._grammar = grammar
        self._stop_token_ids = stop_token_ids
        self._constraint: GrammarConstraint | None = None
        # Whether it constrains a name that is not complete; after a failure no name is.
        self._in_name = False
        self._name_failed = False

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
        """The tokens that may come next in a call's name or arguments; None (all) elsewhere."""
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
        if started is not None:
            self._in_name = False
        if not (self._in_name or self._text.in_arguments):
            self._constraint = None
        self._follow_name(self._text.partial_name)

    def _follow_name(self, partial: PartialName | None) -> None:
        """Constrain a name once it begins, until what follows it is complete, too."""
        if partial is None:
            self._name_failed = False
            self._end_name()
        elif self._constraint is None and not self._name_failed:
            self._in_name, self._constraint = True, self._grammar.create_constraint()
            try:
                self._constraint.accept_text(begin_header(partial.headers) + partial.text)
            except GrammarError as error:
                self._stop_constraining(error)

    def _end_name(self) -> None:
        if self._in_name:
            self._in_name, self._constraint = False, None

    def _stop_constraining(self, error: GrammarError) -> None:
        logger.warning("a tool call is not constrained by its schema: %s", error)
        self._name_failed |= self._in_name
        self._in_name, self._constraint = False, None
