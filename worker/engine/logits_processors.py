"""Logits processors of one row: bias, penalties, suppressed stop tokens.

They apply in this order, to each token that they concern:

1. `repetition_penalty` r, for the last `repetition_context` tokens of prompt and answer
   (0: all of them): a positive logit is divided by r, a negative one multiplied
   (Keskar et al. 2019).
2. `logit_bias` is added, then `presence_penalty` and `frequency_penalty` are
   subtracted, which count only the tokens of the answer (OpenAI's formula).
3. Stop tokens are suppressed until the answer has `min_tokens` tokens.

The table is sparse, is kept on the host, and is a pure function of the tokens so far.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from protocol.messages import Sampling

# So unlikely that a suppressed token is drawn only where no other token is allowed.
SUPPRESSED = -1e9
INITIAL_CAPACITY = 64

Table = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


class RecentTokens:
    """The tokens among the last `size` of prompt and answer; a `size` of 0 is all tokens."""

    def __init__(self, prompt: Iterable[int], size: int) -> None:
        self._size = size
        self._window = deque(prompt, maxlen=size or None)
        self._counts = Counter(self._window)
        if not size:
            self._window.clear()

    def __contains__(self, token: int) -> bool:
        return token in self._counts

    def __iter__(self) -> Iterator[int]:
        return iter(self._counts)

    def push(self, token: int) -> int | None:
        """Add a token; returns the one that is no longer among the last, if any."""
        oldest = self._window[0] if self._size and len(self._window) == self._size else None
        if self._size:
            self._window.append(token)
        self._counts[token] += 1
        if oldest is not None:
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
                return oldest
        return None


class LogitsProcessors:
    """The tokens of one row whose logits change: logit l becomes l * scale^±1 + offset."""

    def __init__(
        self, sampling: Sampling, stop_token_ids: Iterable[int], prompt: Iterable[int]
    ) -> None:
        self._sampling = sampling
        self.depends_on_history = has_penalties(sampling)
        self._suppressed = set(stop_token_ids) if sampling.min_tokens else set()
        self._counts: dict[int, int] = {}
        has_repetition = sampling.repetition_penalty != 1
        self._recent = RecentTokens(prompt, sampling.repetition_context) if has_repetition else None
        # A long prompt has many tokens, so they are entered all at once.
        tokens = sorted(self._recent or ())
        self._index_of = {token: index for index, token in enumerate(tokens)}
        count = len(self._index_of)
        self._ids = np.zeros(count + INITIAL_CAPACITY, np.int32)
        self._ids[:count] = list(self._index_of)
        self._scales = np.ones(len(self._ids), np.float32)
        self._scales[:count] = sampling.repetition_penalty
        self._offsets = np.zeros(len(self._ids), np.float32)
        for token in sorted(self._suppressed | sampling.logit_bias.keys()):
            self._update_entry(token)

    def accept(self, token: int) -> None:
        """Count a token of the answer."""
        if self.depends_on_history:
            self._counts[token] = self._counts.get(token, 0) + 1
            gone = self._recent.push(token) if self._recent is not None else None
            if gone is not None:
                self._update_entry(gone)
            self._update_entry(token)

    def table(self, position: int) -> Table:
        """The token ids, their scales and their offsets, for the draw at this position."""
        if self._suppressed and position >= self._sampling.min_tokens:
            released, self._suppressed = self._suppressed, set()
            for token in sorted(released):
                self._update_entry(token)
        count = len(self._index_of)
        return self._ids[:count], self._scales[:count], self._offsets[:count]

    def _update_entry(self, token: int) -> None:
        """Compute one token's entry again, or add it."""
        index = self._index_of.setdefault(token, len(self._index_of))
        if index == len(self._ids):
            self._grow()
        sampling, count = self._sampling, self._counts.get(token, 0)
        self._ids[index] = token
        if self._recent is not None:
            self._scales[index] = sampling.repetition_penalty if token in self._recent else 1.0
        self._offsets[index] = (
            sampling.logit_bias.get(token, 0.0)
            - (sampling.presence_penalty if count else 0.0)
            - sampling.frequency_penalty * count
            + (SUPPRESSED if token in self._suppressed else 0.0)
        )

    def _grow(self) -> None:
        added = len(self._ids)
        self._ids = np.concatenate([self._ids, np.zeros(added, np.int32)])
        self._scales = np.concatenate([self._scales, np.ones(added, np.float32)])
        self._offsets = np.concatenate([self._offsets, np.zeros(added, np.float32)])


def has_penalties(sampling: Sampling) -> bool:
    """Whether the tokens of the answer change the logits of the next ones."""
    return (
        sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or sampling.repetition_penalty != 1
    )


def make_logits_processors(
    sampling: Sampling, stop_token_ids: Iterable[int], prompt: Iterable[int]
) -> LogitsProcessors | None:
    """The row's logits processors; None where its parameters change no logit."""
    if has_penalties(sampling) or sampling.logit_bias or sampling.min_tokens:
        return LogitsProcessors(sampling, stop_token_ids, prompt)
    return None
