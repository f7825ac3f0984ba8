"""The file format of a prompt cache node: safetensors, with a digest of the whole content.

`pack` runs on the device's thread and copies nothing: its numpy arrays are views of MLX's
memory. `encode` and `read_file` do not use MLX, so other threads can call them.
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
DESCRIPTION_KEY = "mlxd"
DIGEST_KEY = "digest"
DIGEST_BYTES = 16
KV_CACHE = "KVCache"

Arrays = dict[str, np.ndarray[Any, Any]]
Slice = tuple[mx.array, mx.array]


class DamagedFile(Exception):
    """A file that is not a node of the prompt cache, or not an intact one."""


@dataclass(frozen=True, slots=True)
class SerializedNode:
    """A node without MLX's objects: the lengths where it starts and ends, layers and arrays.

    `start` tokens precede it, and it ends after `length` tokens. `layers` describes each
    layer's arrays. `tokens` are those of the node, in files of nodes that can be cut.
    """

    start: int
    length: int
    layers: list[dict[str, Any]]
    arrays: Arrays
    tokens: list[int] | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def pack(
    tokens: Sequence[int], start: int, slices: Sequence[Slice | None], states: Sequence[Any]
) -> SerializedNode:
    """Serialize the node after all `tokens` that begins after `start` of them.

    `states` are the caches of the layers without a slice, in order.
    """
    arrays: dict[str, mx.array] = {}
    layers: list[dict[str, Any]] = []
    pending = iter(states)
    for number, part in enumerate(slices):
        state = next(pending) if part is None else None
        kind = KV_CACHE if part is not None else type(state).__name__
        leaves = {}
        for path, leaf in tree_flatten(part if state is None else state.state):
            if isinstance(leaf, mx.array):
                arrays[f"{number}.{path}"], leaf = _viewed(leaf), str(leaf.dtype)
                leaves[path] = {"dtype": leaf}
            else:
                leaves[path] = {"value": leaf}
        layers.append({"kind": kind, "leaves": leaves})
    own = None if None in slices else list(tokens[start:])
    # One wait for all of them.
    mx.eval(arrays)
    views = {name: np.array(array, copy=False) for name, array in arrays.items()}
    return SerializedNode(start, len(tokens), layers, views, own)


def unpack(packed: SerializedNode) -> tuple[list[Slice | None], list[Any]]:
    """The slices and the states of a node.

    Raises:
        DamagedFile: this version of mlx-lm has no cache class of a layer's kind.
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
        if layer["kind"] == KV_CACHE:
            slices.append((tree[0], tree[1]))
        else:
            slices.append(None)
            states.append(_cache_class(layer["kind"]).from_state(tree))
    return slices, states


def encode(packed: SerializedNode) -> bytes:
    """The content of a node's file."""
    description = {
        "format": FORMAT,
        "start": packed.start,
        "length": packed.length,
        "layers": packed.layers,
    }
    if packed.tokens is not None:
        description["tokens"] = packed.tokens
    text = json.dumps(description)
    metadata = {DESCRIPTION_KEY: text, DIGEST_KEY: _digest(text, packed.arrays)}
    encoded: bytes = save(packed.arrays, metadata=metadata)
    return encoded


def read_file(path: Path) -> SerializedNode:
    """The node in a file.

    Raises:
        DamagedFile: the content is not one that `encode` has made.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata[DESCRIPTION_KEY]
        if metadata[DIGEST_KEY] != _digest(text, arrays):
            raise DamagedFile("the digest does not match the content")
        description = json.loads(text)
        if description["format"] != FORMAT:
            raise DamagedFile(f"its format is {description['format']}, not {FORMAT}")
        return SerializedNode(
            start=description["start"],
            length=description["length"],
            layers=description["layers"],
            arrays=arrays,
            tokens=description.get("tokens"),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"it cannot be parsed: {error}") from error


def read_tokens(path: Path) -> list[int]:
    """The tokens of the node in a file that can be cut, without its arrays; else none.

    Raises:
        DamagedFile: the content is not one that `encode` has made.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tokens = json.loads((file.metadata() or {})[DESCRIPTION_KEY]).get("tokens")
        return tokens if isinstance(tokens, list) else []
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(f"it cannot be parsed: {error}") from error


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _viewed(array: mx.array) -> mx.array:
    """The array, or one of integers where numpy lacks its type."""
    return array.view(mx.uint16) if array.dtype == mx.bfloat16 else array


def _to_mlx(array: np.ndarray[Any, Any], dtype: str) -> mx.array:
    loaded = mx.array(array)
    return loaded.view(mx.bfloat16) if dtype == str(mx.bfloat16) else loaded


def _cache_class(name: str) -> Any:
    cache_class = getattr(mlx_caches, name, None)
    if not isinstance(cache_class, type) or not hasattr(cache_class, "from_state"):
        raise DamagedFile(f"this version of mlx-lm has no cache class {name}")
    return cache_class
