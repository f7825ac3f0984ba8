"""What the worker tells of its device, its memory and its steps."""

from __future__ import annotations

from typing import Literal

from protocol.structs import Data


class Memory(Data, frozen=True):
    """The worker's memory in bytes; 0 means unknown.

    `active`, `peak` and `cache` are reported by MLX, `footprint` by the system for the whole
    process. `limit` is the budget, `reserved` the part of it that is reserved for weights,
    KV caches, the prompt cache and preparation; `preparation` is the last of these.
    """

    active: int = 0
    peak: int = 0
    cache: int = 0
    limit: int = 0
    footprint: int = 0
    reserved: int = 0
    preparation: int = 0


class Device(Data, frozen=True):
    """The device that MLX computes on.

    `recommended_bytes` is the working set that Metal recommends, 0 on others.
    """

    name: str
    backend: str
    memory_bytes: int
    recommended_bytes: int = 0


class DraftedTokens(Data, frozen=True):
    """Drafted tokens of one origin: those that were right, and the others."""

    origin: Literal["prediction", "text", "model"]
    accepted: int
    rejected: int


class Stats(Data, frozen=True):
    """The worker's state after some steps, and what these took: `device_ms` and `host_ms`.

    They are those since the last message: none, one or several `steps`, with `step_sequences`
    sequences in all.
    `waiting` includes the sequences that are `preparing`: whose prompt or grammar is being
    prepared. `preparation_ms` and `preparation_bytes` are the time spent since the last step
    and the encoded prompts prepared in it. `preempted` sequences were queued again since
    then; `recomputed_tokens` are prefilled again for sequences that were preempted before.
    Drafted tokens: `accepted_tokens` are in an answer and `rejected_tokens` in none; `drafts` has
    those that were right and wrong, by their origin, whether or not the answer ended before them.
    """

    running: int
    waiting: int
    memory: Memory
    device_ms: float
    host_ms: float
    steps: int = 0
    step_sequences: int = 0
    preparing: int = 0
    preparation_ms: float = 0.0
    preparation_bytes: int = 0
    preempted: int = 0
    recomputed_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    drafts: list[DraftedTokens] = []
