"""The sampler compiled by MLX: fewer kernels a step, at the price of a compilation per shape.

Whether that pays depends on the device; `mlxd doctor --selftest` measures it. This has not been
run on Metal yet, so it is off unless the setting `compiled_sampling` is on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from worker.engine.sampler import (
    Row,
    Sample,
    as_column,
    gumbel_noise,
    keys_of,
    log_or_minus_inf,
    min_ranked_logits,
    ranks_of,
    sample_tokens,
    temperatures_of,
)

logger = logging.getLogger(__name__)

Compile = Callable[[Callable[..., mx.array]], Callable[..., mx.array]]


class Filters(NamedTuple):
    """The filters that any of the rows has: each combination is a function of its own."""

    min_p: bool
    top_k: bool
    top_p: bool


class CompiledSampling:
    """Draws as `sample_tokens` does, by a compiled function for each combination of filters."""

    def __init__(self, compile: Compile = mx.compile) -> None:
        self._compile = compile
        self._functions: dict[Filters, Callable[..., mx.array]] = {}

    def __call__(self, logits: mx.array, rows: Sequence[Row]) -> mx.array:
        samplings = [row.sampling for row in rows]
        vocabulary = logits.shape[-1]
        filters = Filters(
            any(each.min_p for each in samplings),
            any(0 < each.top_k < vocabulary for each in samplings),
            any(each.top_p < 1 for each in samplings),
        )
        if filters not in self._functions:
            self._functions[filters] = self._compile(partial(draw, filters))
        return self._functions[filters](
            logits,
            temperatures_of(rows),
            keys_of(rows),
            as_column(log_or_minus_inf(each.min_p) for each in samplings),
            ranks_of(samplings, vocabulary),
            as_column(each.top_p for each in samplings),
        )


def choose_sampling(compiled: bool) -> Sample:
    """The sampler for a setting; MLX compiles for Metal, and on the CPU it must not."""
    if compiled and not mx.metal.is_available():
        logger.warning("compiled_sampling has no effect: MLX compiles the sampler only on Metal")
        return sample_tokens
    return CompiledSampling() if compiled else sample_tokens


def draw(
    filters: Filters,
    logits: mx.array,
    temperatures: mx.array,
    keys: mx.array,
    min_p_logs: mx.array,
    ranks: mx.array,
    top_p: mx.array,
) -> mx.array:
    """Token ids of shape [rows]; all parameters are arrays, with one number for each row."""
    logits = logits.astype(mx.float32)
    bounds = []
    if filters.min_p:
        bounds.append(mx.max(logits, axis=-1, keepdims=True) + min_p_logs)
    if filters.top_k or filters.top_p:
        bounds.append(min_ranked_logits(logits, ranks, top_p if filters.top_p else None))
    for bound in bounds:
        logits = mx.where(logits < bound, -math.inf, logits)
    return mx.argmax(logits / temperatures + gumbel_noise(keys, logits.shape[-1]), axis=-1)
