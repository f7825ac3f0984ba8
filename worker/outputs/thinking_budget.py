"""Ends an answer's reasoning after so many tokens; implements `worker.engine.sampler.Constraint`.

The end marker is written by allowing only its next token, so that the model goes on after it. All
of this follows from the tokens so far: an answer that is resumed ends its reasoning at the same
token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet

from worker.engine.bitmask import BitMask, allow_only
from worker.engine.sampler import Constraint
from worker.outputs.text import Text
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.segmentation.thinking_ends import ThinkingEnd

# Reasoning does not end inside a character; its bytes may be so many further tokens.
MAX_CHARACTER_TOKENS = 3


class ThinkingBudget:
    """The constraint of one answer that may have `budget` tokens of reasoning.

    Its markers are not counted. `inner` is the constraint of the answer besides, and tokens of
    `stop_token_ids` are not part of the text.
    """

    def __init__(
        self,
        text: Text,
        budget: int,
        end: ThinkingEnd,
        *,
        inner: Constraint | None = None,
        stop_token_ids: AbstractSet[int] = frozenset(),
    ) -> None:
        self._text = text
        self._left = budget
        self._end = end
        self._inner = inner
        self._stop_token_ids = stop_token_ids
        self._has_ended = False
        self._forced: deque[int] = deque()
        self._end_if_spent()

    @property
    def complete(self) -> bool:
        """Whether only a stop token may follow."""
        return self._inner is not None and self._inner.complete

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        was_reasoning = self._text.in_reasoning
        if self._inner is not None:
            self._inner.accept(token)
        if token in self._stop_token_ids:
            return
        if not isinstance(self._inner, ToolCallConstraint):
            self._text.push_ahead(token)
        if self._forced:
            self._forced.popleft()
            return
        self._left -= was_reasoning
        self._end_if_spent()

    def mask(self) -> BitMask | None:
        """The tokens that may come next; one alone while the end marker is written."""
        if self._forced:
            return allow_only(self._forced[0])
        return None if self._inner is None else self._inner.mask()

    def _end_if_spent(self) -> None:
        """Begin the end marker, if the budget is spent and no character is incomplete."""
        if not self._text.in_reasoning or self._left > 0:
            return
        if self._text.in_character and self._left > -MAX_CHARACTER_TOKENS:
            return
        self._forced.extend(self._end.again if self._has_ended else self._end.first)
        self._has_ended = True
