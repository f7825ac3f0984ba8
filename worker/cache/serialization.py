"""What a span of the prompt cache looks like in a file: safetensors, with a digest of all of it.

Packing is done on the device's thread and copies nothing: the numpy arrays look at
MLX's own memory. Writing and reading touch no MLX, so another thread can do them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import cache as mlx_caches
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT = 1
FACTS = "mlxd"
DIGEST = "digest"
DIGEST_BYTES = 16
KV = "KVCache"

Arrays = dict[str, np.ndarray[Any, Any]]
Slice = tuple[mx.array, mx.array]


class DamagedFile(Exception):
    """A file that is no span of ours, or no longer."""


@dataclass(frozen=True, slots=True)
class SerializedNode:
    """A span as plain memory: the tokens it begins and ends at, arrays, and what they are."""

    start: int
    length: int
    layers: list[dict[str, Any]]
    arrays: Arrays

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def pack(
    start: int, length: int, slices: Sequence[Slice | None], states: Sequence[Any]
) -> SerializedNode:
    """One span; `states` are those of the layers that have no slice, in order."""
    arrays: Arrays = {}
    layers: list[dict[str, Any]] = []
    pending = iter(states)
    for number, part in enumerate(slices):
        state = next(pending) if part is None else None
        kind = KV if part is not None else type(state).__name__
        leaves = {}
        for path, leaf in tree_flatten(part if state is None else state.state):
            if isinstance(leaf, mx.array):
                arrays[f"{number}.{path}"], leaf = _to_numpy(leaf), str(leaf.dtype)
                leaves[path] = {"dtype": leaf}
            else:
                leaves[path] = {"value": leaf}
        layers.append({"kind": kind, "leaves": leaves})
    return SerializedNode(start, length, layers, arrays)


def unpack(packed: SerializedNode) -> tuple[list[Slice | None], list[Any]]:
    """The slices and the states that `pack` was given.

    Raises:
        DamagedFile: a layer is of a kind that this mlx-lm does not know.
    """
    slices: list[Slice | None] = []
    states = []
    for number, layer in enumerate(packed.layers):
        leaves = [
            (path, _to_mlx(packed.arrays[f"{number}.{path}"], leaf["dtype"]))
            if "dtype" in leaf
            else (path, leaf["value"])
            for path, leaf in layer["leaves"].items()
        ]
        tree: Any = tree_unflatten(leaves)
        if layer["kind"] == KV:
            slices.append((tree[0], tree[1]))
        else:
            slices.append(None)
            states.append(_cache_class(layer["kind"]).from_state(tree))
    return slices, states


def encode(packed: SerializedNode) -> bytes:
    """The file's bytes."""
    facts = {
        "format": FORMAT,
        "start": packed.start,
        "length": packed.length,
        "layers": packed.layers,
    }
    text = json.dumps(facts)
    metadata = {FACTS: text, DIGEST: _digest(text, packed.arrays)}
    encoded: bytes = save(packed.arrays, metadata=metadata)
    return encoded


def read(path: Path) -> SerializedNode:
    """A file's span.

    Raises:
        DamagedFile: it is not a file of `encode`, or not all of it.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata[FACTS]
        if metadata[DIGEST] != _digest(text, arrays):
            raise DamagedFile("its digest is not that of its content")
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise DamagedFile(f"its format is {facts['format']}, not {FORMAT}")
        return SerializedNode(facts["start"], facts["length"], facts["layers"], arrays)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"it cannot be understood: {error}") from error


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _to_numpy(array: mx.array) -> np.ndarray[Any, Any]:
    """A view of the array's memory; numpy has no bfloat16, so that is viewed as integers."""
    viewed = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    mx.eval(viewed)
    return np.array(viewed, copy=False)


def _to_mlx(array: np.ndarray[Any, Any], dtype: str) -> mx.array:
    loaded = mx.array(array)
    return loaded.view(mx.bfloat16) if dtype == str(mx.bfloat16) else loaded


def _cache_class(name: str) -> Any:
    found = getattr(mlx_caches, name, None)
    if not isinstance(found, type) or not hasattr(found, "from_state"):
        raise DamagedFile(f"it holds a {name}, which this mlx-lm does not know")
    return found
