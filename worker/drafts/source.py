"""What a source of drafts is: a text that is looked up, or another model.

A source of one answer knows its tokens alone, and costs nothing. A source of a batch is asked for
several answers at once, because it computes: a smaller model, or heads of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import mlx.core as mx

DraftOrigin = Literal["prediction", "text", "model"]
"""Where drafts come from: the request's prediction, prompt and answer, or a source of a batch."""


class DraftSource(Protocol):
    """Guesses the next tokens of one answer. A wrong guess costs time and changes no answer."""

    @property
    def matched(self) -> int:
        """How many of the last tokens agree with what the guess is taken from; 0 is no guess."""

    def follow(self, token: int) -> None:
        """The answer goes on with this token, which is the last one of the history."""

    def skip(self) -> None:
        """The answer has gone on by several tokens, which end the history."""

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that may come next; none without a guess."""


class Text(Protocol):
    """The prompt and the answer of a row; its object stays the same while the row decodes."""

    def read(self) -> Sequence[int]:
        """All tokens, of which the last one is not computed yet."""


class BatchSource(Protocol):
    """Guesses the next tokens of several rows with passes of its own, which cost time."""

    def pass_s(self) -> float:
        """The seconds of one of its passes, which gives each row a token."""

    def is_ready(self, text: Text) -> bool:
        """Whether it has computed this text."""

    def prepare(self, text: Text, seconds: float) -> None:
        """Compute a part of a text that takes about so long."""

    def propose(self, texts: Sequence[Text], count: int) -> list[list[int]]:
        """The next `count` tokens of each text; all are ready."""

    def release(self, text: Text) -> None:
        """Free what is kept of a text."""

    @property
    def slack_bytes(self) -> int:
        """The bytes that are held beyond what its rows need."""

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Hold more than its rows need where the memory budget has these bytes to spare."""

    def squeeze(self) -> None:
        """Give up the slack."""


@dataclass(frozen=True, slots=True)
class KeptPlaces:
    """What stays of a text in a pass: the first `count` places of its slot."""

    text: Text
    slot: int
    count: int


@runtime_checkable
class StateSource(BatchSource, Protocol):
    """A source that reads the states of the model's last layer: heads of the model itself.

    Where there is one, it computes the places of rows that decode, and has their states; where
    there is none, no states are kept. Those of a prompt before its last token are not given: a
    cached prefix has none. mlx-lm 0.32.2 drops the weights of such heads from every checkpoint
    that has them, so a source has to read them itself.
    """

    def compute(self, tokens: mx.array, cache: list[Any]) -> tuple[mx.array, mx.array]:
        """The model's logits behind `tokens`, and the states that they come from.

        Shapes: [slots, places] gives [slots, places, vocabulary] and [slots, places, width].
        """

    def follow(self, states: mx.array, kept: Sequence[KeptPlaces]) -> None:
        """Take the states of a pass, which are not evaluated yet: [slots, places, width].

        When `propose` is called, the last one that a text keeps is that of the place before its
        last token.
        """
