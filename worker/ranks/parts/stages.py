"""What the layers of one rank of a pipeline need and send, by a lazy pass that computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from protocol.quantisation import KVBits
from worker.memory.budget import own_weight_bytes_of
from worker.memory.kv_cost import PartCost, measure_part, run_lazily

# The tokens of the pass whose transfers are compared.
PASS_TOKENS = 2
# The shape and the type of an array that is sent or received.
Transfer = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one rank needs of a model, and what it sends and receives in a pass."""

    weight_bytes: int
    made_caches: int
    caches: Mapping[KVBits, PartCost]
    sent: list[Transfer]
    received: list[Transfer]


@dataclass(frozen=True, slots=True)
class Transfers:
    """What was sent and received, in its order."""

    sent: list[Transfer] = field(default_factory=list)
    received: list[Transfer] = field(default_factory=list)


def measure_stage(model: nn.Module) -> Stage:
    """Measure a model of which mlx-lm has kept one rank's layers."""
    with recorded_transfers() as transfers:
        run_lazily(model, PASS_TOKENS)
    with recorded_transfers():
        caches = measure_part(model)
    return Stage(
        weight_bytes=own_weight_bytes_of(model),
        made_caches=len(make_prompt_cache(model)),
        caches=caches,
        sent=transfers.sent,
        received=transfers.received,
    )


@contextmanager
def recorded_transfers() -> Iterator[Transfers]:
    """Record what models send and receive within the block; nothing is sent.

    mlx-lm (0.32.2) has no hook for this, so MLX's functions are replaced.
    """
    transfers = Transfers()

    def send(array: mx.array, target: int, **options: Any) -> mx.array:
        transfers.sent.append(describe(array))
        return array

    def receive(shape: tuple[int, ...], dtype: mx.Dtype, source: int, **options: Any) -> mx.array:
        return receive_like(mx.zeros(shape, dtype), source)

    def receive_like(array: mx.array, source: int, **options: Any) -> mx.array:
        transfers.received.append(describe(array))
        return array

    def gather(array: mx.array, **options: Any) -> mx.array:
        return array

    replaced = {"send": send, "recv": receive, "recv_like": receive_like, "all_gather": gather}
    own = {name: getattr(mx.distributed, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(mx.distributed, name, function)
        yield transfers
    finally:
        for name, function in own.items():
            setattr(mx.distributed, name, function)


def describe(array: mx.array) -> Transfer:
    """The shape and the type of an array."""
    return tuple(array.shape), str(array.dtype)
