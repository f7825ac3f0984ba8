"""Expected answers, and how an answer on this device compares with one.

Those of the built-in model are stored: computed in float32 on a CPU, each row alone, by
`python -m worker.selftest.make_answers`. With each token the best candidates are stored, so that
a near tie is one by the expected values, not by those of the device that is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from protocol.messages import Sampling
from worker.engine.bitmask import WORD_BITS, BitMask
from worker.engine.sampler import Row, make_row

STORED = Path(__file__).parent / "answers.json"
NEAR_TIE_GAP = 0.05
# 16-bit logits between 16 and 32 are 0.125 apart: two of them may round towards each other.
NEAR_TIE_GAP_16 = 0.25
EVERY_SECOND_BIT = 0x55555555

Kind = Literal["greedy", "seeded", "penalised", "masked"]
SAMPLINGS: dict[Kind, Sampling] = {
    "greedy": Sampling(seed=0, temperature=0.0),
    "seeded": Sampling(seed=1234, temperature=0.8, top_p=0.9),
    "penalised": Sampling(
        seed=0, temperature=0.0, presence_penalty=0.5, repetition_penalty=1.1, logit_bias={5: 1.0}
    ),
    "masked": Sampling(seed=0, temperature=0.0),
}


class Answer(msgspec.Struct, frozen=True):
    """An expected answer: for each token the best candidates, and what each has drawn by.

    That is its logit, after what changes it, over the temperature and with noise if the row is
    sampled; for another model than the built-in one its log-probability.
    """

    kind: Kind
    prompt: list[int]
    tokens: list[int]
    candidates: list[list[tuple[int, float]]]


class Difference(NamedTuple):
    """The first token that differs, and how far the drawn one is behind the expected one."""

    position: int
    gap: float


class AlternateTokens:
    """A constraint that allows every second token."""

    complete = False

    def __init__(self, vocabulary_size: int) -> None:
        words = -(-vocabulary_size // WORD_BITS)
        self._mask: BitMask = np.full(words, EVERY_SECOND_BIT, np.int32)

    def accept(self, token: int) -> None:
        """The mask depends on no token."""

    def mask(self) -> BitMask | None:
        return self._mask


def read_stored(path: Path = STORED) -> list[Answer]:
    """The expected answers of the built-in model."""
    return msgspec.json.decode(path.read_bytes(), type=list[Answer])


def make_answer_row(
    kind: Kind,
    vocabulary_size: int,
    *,
    prompt: Sequence[int],
    resume: Sequence[int] = (),
    logprobs: int | None = None,
) -> Row:
    """The row of an answer; no token ends it."""
    constraint = AlternateTokens(vocabulary_size) if kind == "masked" else None
    return make_row(
        SAMPLINGS[kind], prompt=prompt, resume=resume, constraint=constraint, logprobs=logprobs
    )


def first_difference(answer: Answer, tokens: Sequence[int], start: int = 0) -> Difference | None:
    """How these tokens differ from the answer's from `start` on; None if they do not.

    The gap is infinite where the drawn token is no candidate, or there is none.
    """
    expected = answer.tokens[start:]
    for index, token in enumerate(expected):
        drawn = tokens[index] if index < len(tokens) else None
        if drawn != token:
            scores = dict(answer.candidates[start + index])
            gap = scores.get(token, math.inf) - scores.get(drawn, -math.inf)  # type: ignore[arg-type]
            return Difference(start + index, gap)
    return None
