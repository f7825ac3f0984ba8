"""Which part of the prompt cache is worth least, after GreedyDual-Size-Frequency (Cherkasova 1998).

The value of a node is the clock at its last use, and the tokens that it saves for each byte,
times how often it was used. Whoever is evicted sets the clock to its value, so what is not used
any more loses its value against what is. A node saves the tokens since the last place before it
where a prompt can continue. A node with children can only lose its states: what follows needs
the rest.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.cache.radix_node import RadixNode, states_bytes

# More uses count no more, so that a conversation that has ended is not kept for long.
MAX_USES = 4
# A conversation goes on from a node with at most so many children: the answer, what the next turn
# has instead of it, and branches. More are of prompts that only begin alike.
MAX_BRANCHES = 4
# The heap is made anew when it has so many entries that are skipped.
SPARE_ENTRIES = 256


@dataclass(slots=True)
class Use:
    """When a node was used last, by the clock and by a number, how often, and what it is worth.

    `saved` are the tokens that it saves for each byte that its eviction frees.
    """

    clock: float
    number: int
    uses: int
    saved: float = 0.0

    @property
    def value(self) -> float:
        """What it is worth to keep the node."""
        return self.clock + self.uses * self.saved


class Entry(NamedTuple):
    """A node in the heap; no two have the same serial number."""

    value: float
    number: int
    serial: int
    node: RadixNode


class EvictionOrder:
    """The nodes of all models by their value; of equal ones the one used longest ago goes first."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._number = 0
        self._used: dict[RadixNode, Use] = {}
        # Entries that do not have a node's value and number any more are skipped.
        self._heap: list[Entry] = []
        self._serial = itertools.count()

    def __iter__(self) -> Iterator[RadixNode]:
        return iter(self._used)

    def use(self, path: Sequence[RadixNode]) -> None:
        """Note that these nodes are used, from the root on; each later than its child."""
        for node in reversed(path):
            self._number += 1
            if (used := self._used.get(node)) is None:
                self._add(node)
            else:
                used.clock, used.number = self._clock, self._number
                used.uses = min(used.uses + 1, MAX_USES)
                self._push(node, used)

    def add_before(self, head: RadixNode, tail: RadixNode) -> None:
        """Add a node that was the first part of another one, used as often as that."""
        used = self._used[tail]
        self._used[head] = Use(used.clock, used.number, used.uses)
        self.update(head)
        self.update(tail)

    def update(self, node: RadixNode) -> None:
        """Note that what a node saves or holds has changed; one that is not in the order stays so.

        A node that is being added is not: room is made for it, and it must not go itself.
        """
        if (used := self._used.get(node)) is not None and is_evictable(node):
            used.saved = saved_tokens(node) / max(freed_bytes(node), 1)
            self._push(node, used)

    def remove(self, node: RadixNode) -> None:
        """Forget a node."""
        self._used.pop(node, None)

    def pop(self) -> RadixNode:
        """The node that is worth least, which the caller evicts: it, or its states."""
        while True:
            entry = heapq.heappop(self._heap)
            used = self._used.get(entry.node)
            is_current = used is not None and (used.value, used.number) == entry[:2]
            if is_current and is_evictable(entry.node):
                self._clock = max(self._clock, entry.value)
                return entry.node

    def _add(self, node: RadixNode) -> None:
        self._used[node] = Use(self._clock, self._number, self._first_uses(node))
        self.update(node)

    def _first_uses(self, node: RadixNode) -> int:
        """The uses of a new node: what goes on from a conversation is used as often as that."""
        parent = node.parent
        if parent is None or parent not in self._used or len(parent.children) > MAX_BRANCHES:
            return 1
        return self._used[parent].uses

    def _push(self, node: RadixNode, used: Use) -> None:
        if is_evictable(node):
            heapq.heappush(self._heap, self._entry(node, used))
        if len(self._heap) > SPARE_ENTRIES + 2 * len(self._used):
            self._heap = [self._entry(n, u) for n, u in self._used.items() if is_evictable(n)]
            heapq.heapify(self._heap)

    def _entry(self, node: RadixNode, used: Use) -> Entry:
        return Entry(used.value, used.number, next(self._serial), node)


def is_evictable(node: RadixNode) -> bool:
    """Whether the node, or its states, can be evicted now."""
    return not node.children or node.states is not None


def freed_bytes(node: RadixNode) -> int:
    """The bytes that its eviction frees."""
    if not node.children:
        return node.nbytes
    return states_bytes(node)


def saved_tokens(node: RadixNode) -> int:
    """The tokens that are computed again without it: those since a prompt can continue."""
    if not node.complete:
        return 0
    saved = len(node.tokens)
    parent = node.parent
    while parent is not None and not parent.complete:
        saved += len(parent.tokens)
        parent = parent.parent
    return saved
