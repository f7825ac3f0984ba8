"""The quantisation of keys and values: what is asked for a model, and what comes of it."""

from __future__ import annotations

from typing import Literal

from protocol.structs import Data

KVBits = Literal[0, 4, 8]
"""The bits of a model's keys and values; 0 is full precision."""


class KVFacts(Data, frozen=True):
    """The quantisation of a loaded model's keys and values; 0 `bits` if none are quantised.

    `layers` of its `of_layers` caches are quantised; `finding` says why others are not.
    """

    bits: KVBits = 0
    layers: int = 0
    of_layers: int = 0
    finding: str | None = None
