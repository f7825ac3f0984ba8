"""Holds a call that the model opens to its tool's schema; implements `worker.sampling.Constraint`.

What a call is, is the answer's reader's to say: until it announces one the model is free,
so a marker in prose, or in a think block, holds nothing to anything.
"""

from __future__ import annotations

import logging

from worker.grammars.constraint import BitMask, CompiledGrammar, GrammarConstraint, GrammarError
from worker.pieces import Arguments, Opened
from worker.text import Text

logger = logging.getLogger(__name__)


class OfferedCalls:
    """One answer's, by a reader of its own and a grammar of `offer_calls`.

    Where a call has left the grammar already as it opens, or the grammar cannot be
    followed, the model writes it freely: it is read all the same.
    """

    complete = False

    def __init__(self, text: Text, grammar: CompiledGrammar) -> None:
        self._text = text
        self._grammar = grammar
        self._held: GrammarConstraint | None = None

    def accept(self, token: int) -> None:
        """The answer has this token too."""
        try:
            if self._held is not None:
                self._held.accept(token)
            self._follow(token)
        except GrammarError as error:
            self._let_go(error)

    def mask(self) -> BitMask | None:
        """The tokens that may come next in a call's arguments; elsewhere all."""
        if self._held is None:
            return None
        try:
            return self._held.mask()
        except GrammarError as error:
            self._let_go(error)
            return None

    def _follow(self, token: int) -> None:
        opened: GrammarConstraint | None = None
        for piece in self._text.push(token):
            match piece:
                case Opened(_, name):
                    opened = self._held = self._grammar.begin()
                    opened.accept_text(f"{name}\n")
                case Arguments(_, text) if opened is not None:
                    opened.accept_text(text)
        if not self._text.in_arguments:
            self._held = None

    def _let_go(self, error: GrammarError) -> None:
        logger.warning("a call is not held to its grammar: %s", error)
        self._held = None
