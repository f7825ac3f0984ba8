"""Holds what follows an answer's reasoning to a grammar; a `worker.engine.sampler.Constraint`.

The reasoning itself is free, but the answer cannot end in it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from worker.call_readers.deltas import ContentDelta
from worker.engine.bitmask import BitMask, allow_all_but
from worker.outputs.text import Text
from worker.structured_output.constraint import CompiledGrammar


class AfterReasoning:
    """The constraint of one answer that begins in reasoning; `grammar` is that of its content."""

    def __init__(
        self,
        text: Text,
        grammar: CompiledGrammar,
        *,
        stop_token_ids: AbstractSet[int],
        vocabulary_size: int,
    ) -> None:
        self._text = text
        self._inner = grammar.create_constraint()
        self._stop_token_ids = stop_token_ids
        self._reasoning_mask = allow_all_but(stop_token_ids, vocabulary_size)
        self._in_reasoning = text.in_reasoning

    @property
    def complete(self) -> bool:
        """Whether only a stop token may follow."""
        return not self._in_reasoning and self._inner.complete

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        if not self._in_reasoning:
            self._inner.accept(token)
        if token in self._stop_token_ids:
            return
        deltas = self._text.push_ahead(token)
        if self._in_reasoning and not self._text.in_reasoning:
            self._in_reasoning = False
            # The token may have text after the marker.
            for delta in deltas:
                match delta:
                    case ContentDelta(text, "content"):
                        self._inner.accept_text(text)

    def mask(self) -> BitMask:
        """The tokens that may come next."""
        return self._reasoning_mask if self._in_reasoning else self._inner.mask()
