"""The time of one decode pass by its rows, and of a prompt by the tokens of its slice.

Both call the model itself, without the engine: this is what its kernels take.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from worker.selftest.measurement import MS_PER_S, Section
from worker.selftest.subject import Subject

# M 1, up to about 12 and above use different kernels of MLX; 33 is one more than a tile.
ROWS = (1, 2, 4, 8, 12, 16, 32, 33, 64)
SLICES = (32, 128, 512, 2048)
CONTEXT_TOKENS = 16
FIRST_TOKEN = 3


def measure_decode(section: Section, subject: Subject) -> None:
    """The pass-time curve."""
    for rows, seconds in section.within_time("pass_ms", ROWS):
        decode = DecodePass(subject.model, rows)
        pass_s = section.time_s(decode, seconds)
        section.report("pass_ms", round(pass_s * MS_PER_S, 3), "ms", at=rows)


def measure_prefill(section: Section, subject: Subject) -> None:
    """The speed of a prompt in one slice."""
    for tokens, seconds in section.within_time("tokens_per_s", SLICES):
        prompt = make_prompt(1, tokens, subject.vocabulary_size)
        slice_s = section.time_s(lambda prompt=prompt: prefill(subject.model, prompt), seconds, 5)  # type: ignore[misc]
        section.report("tokens_per_s", round(tokens / slice_s, 1), "tokens/s", at=tokens)


class DecodePass:
    """Rows of the same length, of which each call computes one token more."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        self._model = model
        self._cache = prefill(model, mx.full((rows, CONTEXT_TOKENS), FIRST_TOKEN, mx.uint32))
        self._token = mx.full((rows, 1), FIRST_TOKEN, mx.uint32)

    def __call__(self) -> None:
        mx.eval(self._model(self._token, cache=self._cache))


def make_prompt(rows: int, tokens: int, vocabulary_size: int) -> mx.array:
    """Token ids of shape [rows, tokens], of which neighbours differ."""
    ids = FIRST_TOKEN + mx.arange(rows * tokens) * 7 % (vocabulary_size - FIRST_TOKEN)
    return ids.reshape(rows, tokens).astype(mx.uint32)


def prefill(model: nn.Module, prompt: mx.array) -> list[Any]:
    """The caches behind a prompt of shape [rows, tokens], computed in one pass."""
    cache: list[Any] = make_prompt_cache(model)
    model(prompt, cache=cache)
    mx.eval([layer.state for layer in cache])
    return cache
