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
        # Whether it follows a call from its header on, and whether over arguments that are no JSON.
        self._in_header = False
        self._is_text = False
        # The number of a call whose header is not followed any more.
        self._passed: int | None = None

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
                    case ToolCallStart(_, name) if not self._holds_text:
                        started = self._constraint = self._grammar.create_constraint()
                        started.accept_text(f"{name}\n")
                    case ToolCallArguments(_, text) if started is not None:
                        started.accept_text(text)
            except GrammarError as error:
                self._stop_constraining(error)
                started = None
        if started is not None:
            self._in_header = False
        partial = self._text.partial_name
        if not self._goes_on(partial):
            self._end()
        if partial is None:
            self._passed = None
        elif self._constraint is None and self._passed != partial.call and partial.headers:
            self._follow(partial)

    @property
    def _holds_text(self) -> bool:
        """Whether the constraint holds arguments that are no JSON."""
        return self._constraint is not None and self._in_header and self._is_text

    def _goes_on(self, partial: PartialName | None) -> bool:
        """Whether the constraint holds what comes next."""
        if self._constraint is None:
            return False
        if not self._in_header:
            return self._text.in_arguments
        if not self._is_text:
            # Several forms may begin alike, of which the last one has arguments that are no JSON.
            return partial is not None and not partial.is_text
        if self._constraint.may_end:
            # Behind the call the grammar allows anything.
            self._passed = None if partial is None else partial.call
            return False
        return partial is not None

    def _follow(self, partial: PartialName) -> None:
        """Constrain a call whose header begins or is complete."""
        self._in_header, self._is_text = True, partial.is_text
        constraint = self._constraint = self._grammar.create_constraint()
        try:
            constraint.accept_text(begin_header(partial.headers) + partial.text)
        except GrammarError as error:
            self._stop_constraining(error)

    def _end(self) -> None:
        self._constraint, self._in_header = None, False

    def _stop_constraining(self, error: GrammarError) -> None:
        logger.warning("a tool call is not constrained by its schema: %s", error)
        if self._in_header:
            partial = self._text.partial_name
            self._passed = None if partial is None else partial.call
        self._end()
