"""Draws the next token of every row of a batch.

A draw is a pure function of the row's logits, its seed and its position in the
answer, so a seeded answer does not depend on its neighbours or on a restart.
Rows with the same parameters share one sampler and are drawn in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
from mlx_lm.sample_utils import apply_top_k, apply_top_p

from protocol.messages import Sampling

MASK_64 = (1 << 64) - 1
WEYL_INCREMENT = 0x9E3779B97F4A7C15
UNIFORM_BITS = 24
LOWEST_TEMPERATURE = 1e-6
SAMPLERS_KEPT = 256

Filter = Callable[[mx.array], mx.array]


@dataclass(slots=True)
class Row:
    """One sequence's place in the sampling of a batch; `position` counts its drawn tokens."""

    sampler: Sampler
    seed: int
    position: int = 0

    def next_uniform(self) -> float:
        """This position's random number in (0, 1]; moves on to the next."""
        value = uniform(self.seed, self.position)
        self.position += 1
        return value


class Sampler:
    """One set of parameters: mlx-lm's filters in mlx-lm's order, then one draw a row."""

    def __init__(self, temperature: float, filters: Sequence[Filter]) -> None:
        self.greedy = temperature == 0
        self._temperature = temperature
        self._filters = tuple(filters)

    def draw(self, logits: mx.array, rows: Sequence[Row]) -> mx.array:
        """Token ids of shape [rows] from logits of shape [rows, vocabulary]."""
        if self.greedy:
            return mx.argmax(logits, axis=-1)
        uniforms = mx.array([row.next_uniform() for row in rows])[:, None]
        return invert_distribution(self._filter(logits), self._temperature, uniforms)

    def _filter(self, logits: mx.array) -> mx.array:
        if not self._filters:
            return logits
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for apply in self._filters:
            logits = apply(logits)
        return logits


class Samplers:
    """One sampler for each distinct set of parameters of one vocabulary."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._sampler = lru_cache(SAMPLERS_KEPT)(self._make_sampler)

    def row(self, sampling: Sampling, position: int) -> Row:
        """A row for these parameters, its first `position` tokens already drawn."""
        if sampling.temperature == 0:
            return Row(self._sampler(0.0, 1.0, 0, 0.0), sampling.seed, position)
        sampler = self._sampler(
            sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p
        )
        return Row(sampler, sampling.seed, position)

    def _make_sampler(self, temperature: float, top_p: float, top_k: int, min_p: float) -> Sampler:
        filters: list[Filter] = []
        if top_p < 1:
            # An array, because mlx-lm compiles its filter once for each Python number.
            threshold = mx.array(top_p)
            filters.append(lambda logits: apply_top_p(logits, threshold))
        if min_p > 0:
            filters.append(lambda logits: drop_below(logits, min_p))
        if 0 < top_k < self._vocabulary_size:
            filters.append(lambda logits: apply_top_k(logits, top_k))
        return Sampler(temperature, filters)


def drop_below(logits: mx.array, min_p: float) -> mx.array:
    """Leave the tokens at least `min_p` times as likely as the likeliest.

    mlx-lm's `apply_min_p` (0.32.2) computes the same, but compiles itself anew for
    each value: 0.6 s of every stream's time on the CPU, for any value a client makes up.
    """
    least = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits < least, -math.inf, logits)


def draw_tokens(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """Token ids of shape [rows], one call for each distinct sampler."""
    groups: dict[Sampler, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.sampler, []).append(place)
    if len(groups) == 1:
        return rows[0].sampler.draw(logits, rows)
    drawn = [
        sampler.draw(logits[mx.array(places)], [rows[place] for place in places])
        for sampler, places in groups.items()
    ]
    order = [place for places in groups.values() for place in places]
    return mx.concatenate(drawn)[mx.argsort(mx.array(order))]


def invert_distribution(logits: mx.array, temperature: float, uniforms: mx.array) -> mx.array:
    """The first token of each row at which the cumulated probability reaches its uniform."""
    logits = logits.astype(mx.float32)
    below_best = logits - mx.max(logits, axis=-1, keepdims=True)
    weights = mx.exp(below_best * (1.0 / max(temperature, LOWEST_TEMPERATURE)))
    cumulated = mx.cumsum(weights, axis=-1)
    return mx.sum(cumulated < uniforms * cumulated[:, -1:], axis=-1).astype(mx.uint32)


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1] from seed and position alone (SplitMix64, Steele et al. 2014)."""
    mixed = mix_64(mix_64(seed & MASK_64) + position * WEYL_INCREMENT)
    return ((mixed >> (64 - UNIFORM_BITS)) + 1) / (1 << UNIFORM_BITS)


def mix_64(value: int) -> int:
    """SplitMix64's output function on the next state after `value`."""
    value = (value + WEYL_INCREMENT) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)
