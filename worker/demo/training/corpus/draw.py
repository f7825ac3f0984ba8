"""Seeded random choices, with separate values for training and for evaluation."""

from __future__ import annotations

import enum
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

HELD_OUT_ONE_IN = 8


class Split(enum.Enum):
    """Whether a document is for training or for evaluation."""

    TRAIN = "train"
    HELD_OUT = "held-out"


def is_held_out(text: str) -> bool:
    """Whether `text` is a value for evaluation only."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Draw:
    """A random generator of one split."""

    rng: random.Random
    split: Split

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, in both splits."""
        return self.rng.choice(items)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    def phrase(self, trained: Sequence[Item], held_out: Sequence[Item]) -> Item:
        """One of the phrasings of this split."""
        return self.rng.choice(trained if self.split is Split.TRAIN else held_out)

    def value(self, write: Callable[[random.Random], str]) -> str:
        """A text by `write` that belongs to this split; `write` is called until one does."""
        while True:
            text = write(self.rng)
            if is_held_out(text) == (self.split is Split.HELD_OUT):
                return text
