"""A span of the prompt cache: some tokens, and what each layer computed for them.

A plain KV cache can be cut anywhere. The state of other layers (a rotating window,
a recurrence) stands only where it was taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeGuard

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import KVCache

TIME_AXIS = 2
"""The axis of keys and values that runs over the tokens: [1, heads, tokens, width]."""

Layers = Sequence[Any]
"""One of mlx-lm's cache objects for each layer, of one sequence."""
Slice = tuple[mx.array, mx.array]
"""Keys and values of some tokens of one layer."""


@dataclass(eq=False, slots=True)
class RadixNode:
    """Tokens that follow `parent`'s, and what the layers computed for them.

    `slices` has None for a layer that cannot be cut; `states` holds those layers as
    they stood after the last token, where that was seen.
    """

    parent: RadixNode | None
    tokens: list[int]
    slices: list[Slice | None]
    states: list[Any] | None = None
    children: dict[int, RadixNode] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    @property
    def complete(self) -> bool:
        """Whether a prompt can go on from this span's end."""
        return self.states is not None or None not in self.slices

    def arrays(self) -> list[mx.array]:
        """Everything that takes memory."""
        held = [array for part in self.slices if part for array in part]
        return held + arrays_of(self.states or ())

    def attach(self) -> None:
        """Let the parent lead here."""
        if self.parent is not None:
            self.parent.children[self.tokens[0]] = self

    def detach(self) -> None:
        """Undo `attach`."""
        if self.parent is not None:
            del self.parent.children[self.tokens[0]]


def arrays_of(layers: Layers) -> list[mx.array]:
    """All arrays of mlx-lm's caches."""
    return [leaf for layer in layers for _, leaf in tree_flatten(layer.state) if _is_array(leaf)]


def reusable_length(path: list[RadixNode], limit: int) -> int:
    """How many of the first `limit` tokens can be gone on from."""
    place = end = 0
    for span in path:
        if None not in span.slices:
            place = min(end + len(span.tokens), limit)
        elif span.states is not None and end + len(span.tokens) <= limit:
            place = end + len(span.tokens)
        end += len(span.tokens)
    return place


def layers_at(path: list[RadixNode], place: int) -> list[Any]:
    """mlx-lm's caches of the first `place` tokens of a path."""
    used: list[tuple[RadixNode, int]] = []
    for span in path:
        if place > 0:
            used.append((span, min(place, len(span.tokens))))
            place -= len(span.tokens)
    last = used[-1][0]
    states = iter(last.states or ())
    return [
        next(states) if part is None else _join([(span.slices[i], n) for span, n in used])
        for i, part in enumerate(last.slices)
    ]


def nodes_since_complete(node: RadixNode) -> list[RadixNode]:
    """A node with the nodes before it, back to the last one that is complete."""
    nodes = [node]
    while (parent := nodes[0].parent) is not None and not parent.complete:
        nodes.insert(0, parent)
    return nodes


def join_slices(nodes: list[RadixNode]) -> list[Slice | None]:
    """The slices of nodes that follow each other; the same list where there is one node."""
    if len(nodes) == 1:
        return nodes[0].slices
    return [
        None if None in parts else _concatenate([part for part in parts if part])
        for parts in zip(*(node.slices for node in nodes), strict=True)
    ]


def _concatenate(slices: list[Slice]) -> Slice:
    keys = mx.concatenate([part[0] for part in slices], axis=TIME_AXIS)
    return keys, mx.concatenate([part[1] for part in slices], axis=TIME_AXIS)


def _join(parts: list[tuple[Slice | None, int]]) -> KVCache:
    cache = KVCache()
    cache.keys, cache.values = _concatenate(
        [(part[0][..., :n, :], part[1][..., :n, :]) for part, n in parts if part]
    )
    cache.offset = cache.keys.shape[TIME_AXIS]
    return cache


def make_node(parent: RadixNode, tokens: Sequence[int], start: int, layers: Layers) -> RadixNode:
    slices = [_slice_of(layer) for layer in layers]
    states = states_of(layers)
    return RadixNode(
        parent, list(tokens[start:]), cut_slices(slices, start, len(tokens)), states or None
    )


def split_node(tail: RadixNode, place: int) -> RadixNode:
    """Cut a span's first `place` tokens off into a span before it, which is returned."""
    head = RadixNode(tail.parent, tail.tokens[:place], cut_slices(tail.slices, 0, place))
    tail.slices = cut_slices(tail.slices, place, None)
    tail.tokens = tail.tokens[place:]
    head.attach()
    tail.parent = head
    tail.attach()
    return head


def root_of(span: RadixNode) -> RadixNode:
    """The span at which a model's tree begins."""
    while span.parent is not None:
        span = span.parent
    return span


def tokens_to(span: RadixNode) -> list[int]:
    """All tokens from the root to a span's end."""
    parts = []
    here: RadixNode | None = span
    while here is not None:
        parts.append(here.tokens)
        here = here.parent
    return [token for part in reversed(parts) for token in part]


def _slice_of(layer: Any) -> Slice | None:
    return layer.keys_and_values() if type(layer) is KVCache else None


def states_of(layers: Layers) -> list[Any]:
    return [_own(layer) for layer in layers if type(layer) is not KVCache]


def _own(layer: Any) -> Any:
    """The layer's state in memory of its own: a row of a batch may be a view of all rows."""
    return type(layer).from_state(
        tree_map(lambda leaf: mx.contiguous(leaf) if _is_array(leaf) else leaf, layer.state)
    )


def _is_array(leaf: object) -> TypeGuard[mx.array]:
    return isinstance(leaf, mx.array)


def cut_slices(slices: list[Slice | None], start: int, stop: int | None) -> list[Slice | None]:
    """The tokens from `start` to `stop` of each slice, in memory of their own."""
    return [
        (mx.contiguous(part[0][..., start:stop, :]), mx.contiguous(part[1][..., start:stop, :]))
        if part
        else None
        for part in slices
    ]


def shared_length(ours: list[int], theirs: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    if ours == theirs:
        return len(ours)
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    )


def descendants(span: RadixNode) -> Iterator[RadixNode]:
    pending = list(span.children.values())
    while pending:
        child = pending.pop()
        pending += child.children.values()
        yield child
