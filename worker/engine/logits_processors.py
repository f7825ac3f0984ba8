"""Logits processors of one row: bias, penalties, suppressed stop tokens.

In this order, for each token it concerns:

1. `repetition_penalty` r, for tokens of the prompt or the answer: a positive
   logit is divided by r, a negative one multiplied (Keskar et al. 2019).
2. `logit_bias` is added, then `presence_penalty` and `frequency_penalty` are
   subtracted, which count the tokens of the answer alone (OpenAI's formula).
3. The tokens that end the answer are withheld until it has `min_tokens`.

The table is sparse, kept on the host, and a pure function of the tokens seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from protocol.messages import Sampling

# So unlikely that a withheld token is drawn only where nothing else may be.
SUPPRESSED = -1e9
FIRST_CAPACITY = 64

Table = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


class LogitsProcessors:
    """The tokens of one row whose logits change: logit l becomes l * scale^±1 + offset."""

    def __init__(
        self, sampling: Sampling, stop_token_ids: Iterable[int], prompt: Iterable[int]
    ) -> None:
        self._sampling = sampling
        self.follows_history = has_penalties(sampling)
        self._suppressed = set(stop_token_ids) if sampling.min_tokens else set()
        self._counts: dict[int, int] = {}
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        # A long prompt has many tokens: they are entered at once.
        self._place_of = {token: place for place, token in enumerate(sorted(self._seen))}
        self._ids = np.zeros(len(self._seen) + FIRST_CAPACITY, np.int32)
        self._ids[: len(self._seen)] = list(self._place_of)
        self._scales = np.ones(len(self._ids), np.float32)
        self._scales[: len(self._seen)] = sampling.repetition_penalty
        self._offsets = np.zeros(len(self._ids), np.float32)
        for token in sorted(self._suppressed | sampling.logit_bias.keys()):
            self._write(token)

    def accept(self, token: int) -> None:
        """The answer has this token too."""
        if self.follows_history:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._write(token)

    def table(self, position: int) -> Table:
        """The token ids, their scales and their offsets, for the draw of this position."""
        if self._suppressed and position >= self._sampling.min_tokens:
            released, self._suppressed = self._suppressed, set()
            for token in sorted(released):
                self._write(token)
        count = len(self._place_of)
        return self._ids[:count], self._scales[:count], self._offsets[:count]

    def _write(self, token: int) -> None:
        """Bring one token's entry in line with what has been seen."""
        place = self._place_of.setdefault(token, len(self._place_of))
        if place == len(self._ids):
            self._grow()
        sampling, count = self._sampling, self._counts.get(token, 0)
        self._ids[place] = token
        if count or token in self._seen:
            self._scales[place] = sampling.repetition_penalty
        self._offsets[place] = (
            sampling.logit_bias.get(token, 0.0)
            - (sampling.presence_penalty if count else 0.0)
            - sampling.frequency_penalty * count
            + (SUPPRESSED if token in self._suppressed else 0.0)
        )

    def _grow(self) -> None:
        spare = len(self._ids)
        self._ids = np.concatenate([self._ids, np.zeros(spare, np.int32)])
        self._scales = np.concatenate([self._scales, np.ones(spare, np.float32)])
        self._offsets = np.concatenate([self._offsets, np.zeros(spare, np.float32)])


def has_penalties(sampling: Sampling) -> bool:
    """Whether what was drawn changes what is drawn next."""
    return (
        sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or sampling.repetition_penalty != 1
    )


def make_logits_processors(
    sampling: Sampling, stop_token_ids: Iterable[int], prompt: Iterable[int]
) -> LogitsProcessors | None:
    """The row's logits_processors; None where its parameters change no logit."""
    if has_penalties(sampling) or sampling.logit_bias or sampling.min_tokens:
        return LogitsProcessors(sampling, stop_token_ids, prompt)
    return None
