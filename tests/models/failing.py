"""A model whose code raises in some calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class FailingModel:
    """`inner`, which raises `error` in the calls of `inputs` for which `when` is true.

    `failures` counts these calls.
    """

    def __init__(
        self, inner: nn.Module, error: BaseException, when: Callable[[mx.array], bool]
    ) -> None:
        self.inner = inner
        self.failures = 0
        self.is_intact = False
        self._error, self._when = error, when

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        if not self.is_intact and self._when(inputs):
            self.failures += 1
            raise self._error
        logits: mx.array = self.inner(inputs, cache=cache)
        return logits
