"""The prompt cache: KV of prompt prefixes, shared by the requests of a model.

It is a radix tree over token ids, after RadixAttention (Zheng et al. 2024, SGLang).
Prompts with a common prefix share the nodes of that prefix, so the cache holds a long
system prompt once for all conversations. One byte limit covers all models. What is worth
least is evicted first (`eviction_order`), a node never before its children; of a node with
children the states can be.

A prompt of a model whose layers can all be cut continues from any token. A prompt of
another model continues only from where `insert` was called: at the cache breakpoints,
where the engine stops.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from worker.cache.disk_store import DiskStore
from worker.cache.eviction_order import EvictionOrder
from worker.cache.known_prompts import NOTHING_KNOWN, Closest
from worker.cache.radix_node import (
    Layers,
    NodeCost,
    RadixNode,
    cut_slices,
    descendants,
    join_slices,
    layers_at,
    make_node,
    next_complete,
    nodes_since_complete,
    reusable_length,
    root_of,
    shared_length,
    split_node,
    states_bytes,
    states_of,
    tokens_to,
)
from worker.cache.serialization import DamagedFile, SerializedNode, pack, unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The cached part of a prompt: its number of tokens, and the layers' caches after it.

    The last `disk_tokens` of it were read from files for this prompt. `closest` is what is in
    common with a cached prompt, whether another one can continue there or not.
    """

    length: int
    layers: list[Any]
    disk_tokens: int = 0
    closest: Closest = NOTHING_KNOWN


@dataclass(slots=True)
class PrefixReuse:
    """Where the tokens of one row's prompt come from: cached, or shared with another row.

    `closest` is what the prompt has in common with the closest known one.
    """

    memory_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    closest: Closest = NOTHING_KNOWN

    @property
    def cached_tokens(self) -> int:
        """The tokens that were in the cache."""
        return self.memory_tokens + self.disk_tokens


class PrefixCache:
    """Prefixes of all models under one limit in bytes; with a limit of 0 it stays empty.

    A model is identified by a key of its content. With a disk store, nodes are also
    written there, and read from there.
    """

    def __init__(self, limit_bytes: int, disk_store: DiskStore | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._disk_store = disk_store
        if disk_store is not None:
            disk_store.fetched_limit_bytes = limit_bytes
        self._roots: dict[str, RadixNode] = {}
        self._costs: dict[str, NodeCost] = {}
        self._nodes: dict[RadixNode, int] = {}
        self._order = EvictionOrder()
        self._unwritten: list[tuple[str, RadixNode]] = []
        self.nbytes = 0

    def count_by(self, model: str, cost: NodeCost) -> None:
        """Count the nodes of this model by a cost, not by the bytes of their arrays."""
        self._costs[model] = cost

    def find(self, model: str, tokens: Sequence[int]) -> Prefix:
        """The longest cached prefix of `tokens`, without the last token.

        The last token is always computed, because its logits are needed.
        """
        path, matched = self._match(model, tokens)
        in_memory = matched
        fetched = () if self._disk_store is None else self._disk_store.take_fetched(model, tokens)
        for packed in fetched:
            self._restore(model, tokens, packed)
            path, matched = self._match(model, tokens)
        self._touch(path)
        length = reusable_length(path, min(matched, len(tokens) - 1))
        logger.debug(
            "model %s: %d of %d tokens cached, %d used", model, matched, len(tokens), length
        )
        layers = layers_at(path, length) if length else []
        closest = Closest(matched, matched < len(tokens) and self._goes_on(model, path, matched))
        return Prefix(length, layers, max(length - in_memory, 0), closest)

    def insert(self, model: str, tokens: Sequence[int], layers: Layers) -> None:
        """Add the layers' caches after exactly `tokens`, within the limit."""
        path, matched = self._match(model, tokens)
        path = self._split_path(model, path, matched)
        if matched < len(tokens):
            cost = self._costs.get(model)
            node = make_node(self._last_node(model, path), tokens, matched, layers, cost)
            self._add(model, node, path)
        elif path[-1].complete:
            self._touch(path)
        else:
            path[-1].states = states_of(layers)
            self._add(model, path[-1], path[:-1])

    def write(self) -> None:
        """Pass the nodes added since the last call to the disk store.

        It waits for the device where their arrays are not computed yet.
        """
        unwritten, self._unwritten = self._unwritten, []
        for model, node in unwritten:
            if self._disk_store is not None and node in self._nodes and node.complete:
                tokens = tokens_to(node)
                # Incomplete nodes have no file of their own: the next complete one includes them.
                nodes = nodes_since_complete(node)
                start = len(tokens) - sum(len(each.tokens) for each in nodes)
                packed = pack(tokens, start, join_slices(nodes), node.states or ())
                self._disk_store.put(model, tokens, packed)

    def drop(self, model: str) -> None:
        """Remove all prefixes of a model; its files stay."""
        if self._disk_store is not None:
            self._disk_store.mark_model_evicted(model)
        if model in self._roots:
            for node in list(descendants(self._roots.pop(model))):
                self.nbytes -= self._nodes.pop(node)
                self._order.remove(node)
                # A node and its parent refer to each other: without this their arrays would
                # stay until the next collection.
                node.clear()

    def shrink(self, limit_bytes: int) -> None:
        """Evict what is worth least until at most `limit_bytes` are held."""
        self._fit(limit_bytes)

    def _fit(self, limit_bytes: int) -> None:
        while self.nbytes > limit_bytes:
            self._evict(self._order.pop())

    def _last_node(self, model: str, path: list[RadixNode]) -> RadixNode:
        return path[-1] if path else self._roots.setdefault(model, RadixNode(None, [], []))

    def _match(self, model: str, tokens: Sequence[int]) -> tuple[list[RadixNode], int]:
        """The nodes that match the start of `tokens`, the last perhaps in part, and the length."""
        path: list[RadixNode] = []
        matched = 0
        node = self._roots.get(model)
        while node and matched < len(tokens) and (node := node.children.get(tokens[matched])):
            path.append(node)
            shared = shared_length(node.tokens, tokens[matched : matched + len(node.tokens)])
            matched += shared
            if shared < len(node.tokens):
                break
        return path, matched

    def _goes_on(self, model: str, path: list[RadixNode], matched: int) -> bool:
        """Whether a cached prompt goes on after the first `matched` tokens of `path`."""
        last = path[-1] if path else self._roots.get(model)
        if last is None:
            return False
        return bool(last.children) or sum(len(node.tokens) for node in path) > matched

    def _split_path(self, model: str, path: list[RadixNode], matched: int) -> list[RadixNode]:
        """The same path, with its last node split in two where `matched` ends inside it."""
        surplus = sum(len(node.tokens) for node in path) - matched
        if not surplus:
            return path
        tail = path[-1]
        head = split_node(tail, len(tail.tokens) - surplus)
        mx.async_eval(head.arrays(), tail.arrays())
        for part in (head, tail):
            self._update_size(part)
        self._order.add_before(head, tail)
        # The files of the nodes after the head can be used only with a file of the head.
        self._queue_write(model, head)
        return [*path[:-1], head]

    def _add(self, model: str, node: RadixNode, path: list[RadixNode]) -> None:
        """Add a node after `path`, or one that has got its states, if there is room for it."""
        self._touch(path)
        if not self._has_room(node, path):
            if node in self._nodes:
                node.states = None
            return
        mx.async_eval(node.arrays())
        node.attach()
        self._update_size(node)
        # While it is not in the order, so that it does not go itself.
        self._order.remove(node)
        self._fit(self._limit_bytes)
        self._touch([node])
        for each in path[-1:]:
            self._order.update(each)
        self._queue_write(model, node)

    def _has_room(self, node: RadixNode, path: list[RadixNode]) -> bool:
        """Whether the limit holds a node and what it needs of `path`: all but the states."""
        needed = sum(self._nodes[each] for each in path) + node.nbytes
        if needed <= self._limit_bytes:
            return True
        return needed - sum(states_bytes(each) for each in path) <= self._limit_bytes

    def _queue_write(self, model: str, node: RadixNode) -> None:
        if self._disk_store is not None:
            self._unwritten.append((model, node))

    def _model_of(self, node: RadixNode) -> str:
        top = root_of(node)
        return next(model for model, root in self._roots.items() if root is top)

    def _update_size(self, node: RadixNode) -> None:
        self.nbytes += node.nbytes - self._nodes.get(node, 0)
        self._nodes[node] = node.nbytes

    def _evict(self, node: RadixNode) -> None:
        """Remove a node, or the states of one that has children."""
        if self._disk_store is not None:
            self._disk_store.mark_evicted(self._model_of(node), tokens_to(node))
        if node.children:
            node.states = None
            self._update_size(node)
        else:
            self.nbytes -= self._nodes.pop(node)
            self._order.remove(node)
            node.detach()
            if node.parent in self._nodes:
                self._order.update(node.parent)
        # What follows saves more tokens now.
        for following in next_complete(node):
            self._order.update(following)

    def _touch(self, path: list[RadixNode]) -> None:
        """Note that a path is used."""
        self._order.use(path)

    def _restore(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Add the part of a node from disk that is not in memory."""
        end = packed.length
        if packed.tokens is not None:
            end = packed.start + shared_length(packed.tokens, tokens[packed.start : end])
        tokens = tokens[:end]
        path, matched = self._match(model, tokens)
        lacks_states = bool(path) and not path[-1].complete
        if not packed.start <= matched or (matched == end and not lacks_states):
            return
        try:
            slices, states = unpack(packed)
        except DamagedFile as error:
            logger.warning("prompt cache: a file of model %s is ignored: %s", model, error)
            return
        path = self._split_path(model, path, matched)
        if matched == end:
            # Its states were evicted, and what follows was not.
            path[-1].states = states or None
            self._add(model, path[-1], path[:-1])
            return
        parent = self._last_node(model, path)
        slices = cut_slices(slices, matched - packed.start, end - packed.start)
        node = RadixNode(parent, list(tokens[matched:]), slices, states or None)
        self._add(model, node, path)
