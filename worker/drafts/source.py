"""What a source of drafts is: a text that is looked up, or, some day, another model."""

from __future__ import annotations

from typing import Protocol


class DraftSource(Protocol):
    """Guesses the next tokens of one answer. A wrong guess costs time and changes no answer."""

    @property
    def matched(self) -> int:
        """How many of the last tokens agree with what the guess is taken from; 0 is no guess."""

    def follow(self, token: int) -> None:
        """The answer goes on with this token, which is the last one of the history."""

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that may come next; none without a guess."""
