"""Seeded choices that keep what is held out for evaluation apart from what is trained on."""

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
    """Which side of the corpus a document is for."""

    TRAIN = "train"
    HELD_OUT = "held-out"


def is_held_out(text: str) -> bool:
    """Whether `text` is one of the values that training never sees."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Draw:
    """A random generator bound to one side of the split."""

    rng: random.Random
    split: Split

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Any of `items`, whatever the split."""
        return self.rng.choice(items)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    def phrase(self, trained: Sequence[Item], held_out: Sequence[Item]) -> Item:
        """One of the phrasings of this side of the split."""
        return self.rng.choice(trained if self.split is Split.TRAIN else held_out)

    def value(self, write: Callable[[random.Random], str]) -> str:
        """What `write` makes, tried again until it falls on this side of the split."""
        while True:
            text = write(self.rng)
            if is_held_out(text) == (self.split is Split.HELD_OUT):
                return text
