"""A node of the prompt cache's radix tree: some tokens, and each layer's KV of them.

A plain KV cache can be cut at any token. The state of another layer (a rotating window,
a recurrence) is valid only after the token where it was saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import KVCache

TIME_AXIS = 2
"""The axis of the tokens in keys and values: [1, heads, tokens, width]."""

COMPARED_TOKENS = 512
"""How many tokens of two prompts are compared at a time."""

Layers = Sequence[Any]
"""mlx-lm's cache of each layer, of one sequence."""
Slice = tuple[mx.array, mx.array]
"""Keys and values of some tokens of one layer."""


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What a node of a model counts for that several processes have parts of: on all the same.

    `states` are the bytes by row, the bytes by token and the most tokens (0: all) of each cache
    that cannot be cut.
    """

    token_bytes: float
    states: tuple[tuple[int, float, int], ...]

    def slices_bytes(self, tokens: int) -> int:
        """The bytes of the keys and values of so many tokens."""
        return int(self.token_bytes * tokens)

    def states_bytes(self, end: int) -> int:
        """The bytes of the caches that cannot be cut, after the first `end` tokens."""
        return sum(
            row_bytes + int(token_bytes * (min(end, window) if window else end))
            for row_bytes, token_bytes, window in self.states
        )


# Its representation, in an error for example, would be all prompts.
@dataclass(eq=False, slots=True, repr=False)
class RadixNode:
    """Tokens that follow those of `parent`, and the layers' KV of them.

    `slices` has None for a layer that cannot be cut. `states` holds the caches of those
    layers after the last token; it is None where they were not saved there. `cost` is what it
    counts for, where that is not the bytes of its arrays.
    """

    parent: RadixNode | None
    tokens: list[int]
    slices: list[Slice | None]
    states: list[Any] | None = None
    children: dict[int, RadixNode] = field(default_factory=dict)
    cost: NodeCost | None = None

    @property
    def nbytes(self) -> int:
        if self.cost is not None:
            return self.cost.slices_bytes(len(self.tokens)) + states_bytes(self)
        return sum(array.nbytes for array in self.arrays())

    @property
    def complete(self) -> bool:
        """Whether a prompt can continue after this node's last token."""
        return self.states is not None or None not in self.slices

    def arrays(self) -> list[mx.array]:
        """All arrays of the slices and the states."""
        of_slices = [array for part in self.slices if part for array in part]
        return of_slices + arrays_of(self.states or ())

    def attach(self) -> None:
        """Add this node to its parent's children."""
        if self.parent is not None:
            self.parent.children[self.tokens[0]] = self

    def detach(self) -> None:
        """Remove this node from its parent's children."""
        if self.parent is not None:
            del self.parent.children[self.tokens[0]]

    def clear(self) -> None:
        """Free the arrays of a node that is in no tree any more."""
        self.parent, self.slices, self.states = None, [], None
        self.children.clear()


def arrays_of(layers: Layers) -> list[mx.array]:
    """All arrays of mlx-lm's caches."""
    return [leaf for layer in layers for _, leaf in tree_flatten(layer.state) if _is_array(leaf)]


def reusable_length(path: list[RadixNode], limit: int) -> int:
    """The longest prefix of at most `limit` tokens after which a prompt can continue."""
    length = end = 0
    for node in path:
        end += len(node.tokens)
        if None not in node.slices:
            length = min(end, limit)
        elif node.states is not None and end <= limit:
            length = end
    return length


def layers_at(path: list[RadixNode], length: int) -> list[Any]:
    """mlx-lm's caches after the first `length` tokens of a path."""
    used: list[tuple[RadixNode, int]] = []
    for node in path:
        if length > 0:
            used.append((node, min(length, len(node.tokens))))
            length -= len(node.tokens)
    last = used[-1][0]
    states = iter(last.states or ())
    return [
        next(states) if part is None else _make_cache([(node.slices[i], n) for node, n in used])
        for i, part in enumerate(last.slices)
    ]


def nodes_since_complete(node: RadixNode) -> list[RadixNode]:
    """A node and the incomplete nodes directly before it, in order."""
    nodes = [node]
    while (parent := nodes[0].parent) is not None and not parent.complete:
        nodes.insert(0, parent)
    return nodes


def join_slices(nodes: list[RadixNode]) -> list[Slice | None]:
    """The slices of consecutive nodes; the same list where there is one node."""
    if len(nodes) == 1:
        return nodes[0].slices
    return [
        None if None in parts else _concatenate([part for part in parts if part])
        for parts in zip(*(node.slices for node in nodes), strict=True)
    ]


def _concatenate(slices: list[Slice]) -> Slice:
    keys = mx.concatenate([part[0] for part in slices], axis=TIME_AXIS)
    return keys, mx.concatenate([part[1] for part in slices], axis=TIME_AXIS)


def _make_cache(parts: list[tuple[Slice | None, int]]) -> KVCache:
    cache = KVCache()
    cache.keys, cache.values = _concatenate(
        [(part[0][..., :n, :], part[1][..., :n, :]) for part, n in parts if part]
    )
    cache.offset = cache.keys.shape[TIME_AXIS]
    return cache


def make_node(
    parent: RadixNode,
    tokens: Sequence[int],
    start: int,
    layers: Layers,
    cost: NodeCost | None = None,
) -> RadixNode:
    slices = [_slice_of(layer) for layer in layers]
    states = states_of(layers)
    return RadixNode(
        parent,
        list(tokens[start:]),
        cut_slices(slices, start, len(tokens)),
        states or None,
        cost=cost,
    )


def split_node(tail: RadixNode, length: int) -> RadixNode:
    """Move a node's first `length` tokens to a new parent, which is returned."""
    head = RadixNode(
        tail.parent, tail.tokens[:length], cut_slices(tail.slices, 0, length), cost=tail.cost
    )
    tail.slices = cut_slices(tail.slices, length, None)
    tail.tokens = tail.tokens[length:]
    head.attach()
    tail.parent = head
    tail.attach()
    return head


def root_of(node: RadixNode) -> RadixNode:
    """The root of the node's tree."""
    while node.parent is not None:
        node = node.parent
    return node


def tokens_to(node: RadixNode) -> list[int]:
    """All tokens from the root to the end of a node."""
    parts = []
    current: RadixNode | None = node
    while current is not None:
        parts.append(current.tokens)
        current = current.parent
    return [token for part in reversed(parts) for token in part]


def end_of(node: RadixNode) -> int:
    """The tokens from the root to the end of a node."""
    end = 0
    current: RadixNode | None = node
    while current is not None:
        end += len(current.tokens)
        current = current.parent
    return end


def states_bytes(node: RadixNode) -> int:
    """The bytes of the caches that cannot be cut."""
    if node.cost is not None:
        return node.cost.states_bytes(end_of(node)) if node.states is not None else 0
    return sum(array.nbytes for array in arrays_of(node.states or ()))


def next_complete(node: RadixNode) -> Iterator[RadixNode]:
    """The first nodes below this one, on each branch, after which a prompt can continue."""
    pending = list(node.children.values())
    while pending:
        child = pending.pop()
        if child.complete:
            yield child
        else:
            pending += child.children.values()


def _slice_of(layer: Any) -> Slice | None:
    return layer.keys_and_values() if type(layer) is KVCache else None


def states_of(layers: Layers) -> list[Any]:
    """Copies of the layers' caches that cannot be cut."""
    return [_copy_cache(layer) for layer in layers if type(layer) is not KVCache]


def _copy_cache(layer: Any) -> Any:
    """A copy in memory of its own: a row of a batch may be a view of the arrays of all rows."""
    return type(layer).from_state(
        tree_map(lambda leaf: mx.contiguous(leaf) if _is_array(leaf) else leaf, layer.state)
    )


def _is_array(leaf: object) -> TypeGuard[mx.array]:
    return isinstance(leaf, mx.array)


def cut_slices(slices: list[Slice | None], start: int, stop: int | None) -> list[Slice | None]:
    """Each slice's tokens from `start` to `stop`, copied."""
    return [
        (mx.contiguous(part[0][..., start:stop, :]), mx.contiguous(part[1][..., start:stop, :]))
        if part
        else None
        for part in slices
    ]


def shared_length(ours: list[int], theirs: Sequence[int]) -> int:
    """The length of the common prefix."""
    length = min(len(ours), len(theirs))
    for start in range(0, length, COMPARED_TOKENS):
        end = min(start + COMPARED_TOKENS, length)
        if ours[start:end] != list(theirs[start:end]):
            return next(place for place in range(start, end) if ours[place] != theirs[place])
    return length


def descendants(node: RadixNode) -> Iterator[RadixNode]:
    """All nodes below a node, without recursion: a tree may be deep."""
    pending = list(node.children.values())
    while pending:
        child = pending.pop()
        pending += child.children.values()
        yield child
