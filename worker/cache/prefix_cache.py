"""Prompts paid for once: what was computed for a prefix, shared by the requests of a model.

A radix tree of token spans, after RadixAttention (Zheng et al. 2024, SGLang): two
prompts that begin alike share the spans of what they share, so a long system prompt
is held once for all conversations. One byte limit covers all models; what was used
longest ago leaves first, and a span never before what was built upon it.

A model whose layers can all be cut goes on from any token. Another goes on from
where `insert` was called: at the borders that the engine stops at.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from worker.cache.disk_store import DiskStore
from worker.cache.radix_node import (
    Layers,
    RadixNode,
    cut_slices,
    descendants,
    join_slices,
    layers_at,
    make_node,
    nodes_since_complete,
    reusable_length,
    root_of,
    shared_length,
    split_node,
    states_of,
    tokens_to,
)
from worker.cache.serialization import DamagedFile, SerializedNode, pack, unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The part of a prompt that need not be computed: its tokens, and caches to go on from."""

    length: int
    layers: list[Any]


class PrefixCache:
    """Prefixes of all models under one limit in bytes; a limit of 0 keeps nothing.

    A model is known by a key of its content. With `files`, what is held is also
    written there, and what they have is found there.
    """

    def __init__(self, limit_bytes: int, files: DiskStore | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._files = files
        self._roots: dict[str, RadixNode] = {}
        # Oldest first. A parent is always younger than its children: see `_touch`.
        self._spans: OrderedDict[RadixNode, int] = OrderedDict()
        self._unwritten: list[tuple[str, RadixNode]] = []
        self.nbytes = 0

    def find(self, model: str, tokens: Sequence[int]) -> Prefix:
        """The longest prefix of `tokens` that is held, but never all of them.

        The last token is always left to compute, because its logits are what is wanted.
        """
        if self._files is not None:
            for packed in self._files.take(model, tokens):
                self._restore(model, tokens, packed)
        path, matched = self._walk(model, tokens)
        self._touch(path)
        place = reusable_length(path, min(matched, len(tokens) - 1))
        logger.debug("model %s: %d of %d tokens held, %d used", model, matched, len(tokens), place)
        return Prefix(place, layers_at(path, place) if place else [])

    def insert(self, model: str, tokens: Sequence[int], layers: Layers) -> None:
        """Hold what `layers` computed for exactly `tokens`, within the limit."""
        path, matched = self._walk(model, tokens)
        path = self._cut(model, path, matched)
        if matched < len(tokens):
            span = make_node(self._end(model, path), tokens, matched, layers)
            self._hold(model, span, path)
        elif path[-1].complete:
            self._touch(path)
        else:
            path[-1].states = states_of(layers)
            self._hold(model, path[-1], path[:-1])

    def write(self) -> None:
        """Hand the files what has come since; waits only for what the device still computes."""
        pending, self._unwritten = self._unwritten, []
        for model, span in pending:
            if self._files is not None and span in self._spans and span.complete:
                tokens = tokens_to(span)
                # A file holds complete nodes only: what is between them goes with the later one.
                nodes = nodes_since_complete(span)
                start = len(tokens) - sum(len(node.tokens) for node in nodes)
                packed = pack(start, len(tokens), join_slices(nodes), span.states or ())
                self._files.put(model, tokens, packed)

    def drop(self, model: str) -> None:
        """Forget all prefixes of a model; its files stay."""
        if self._files is not None:
            self._files.forget_model(model)
        if model in self._roots:
            for span in descendants(self._roots.pop(model)):
                self.nbytes -= self._spans.pop(span)

    def shrink(self, limit_bytes: int) -> None:
        """Forget what was used longest ago until at most so many bytes are held."""
        while self.nbytes > limit_bytes:
            self._forget(next(iter(self._spans)))

    def _end(self, model: str, path: list[RadixNode]) -> RadixNode:
        return path[-1] if path else self._roots.setdefault(model, RadixNode(None, [], []))

    def _walk(self, model: str, tokens: Sequence[int]) -> tuple[list[RadixNode], int]:
        """The spans that `tokens` begin with, the last one perhaps in part, and how far."""
        path: list[RadixNode] = []
        matched = 0
        span = self._roots.get(model)
        while span and matched < len(tokens) and (span := span.children.get(tokens[matched])):
            path.append(span)
            shared = shared_length(span.tokens, tokens[matched : matched + len(span.tokens)])
            matched += shared
            if shared < len(span.tokens):
                break
        return path, matched

    def _cut(self, model: str, path: list[RadixNode], matched: int) -> list[RadixNode]:
        """The same path, its last span cut in two where `matched` ends inside it."""
        surplus = sum(len(span.tokens) for span in path) - matched
        if not surplus:
            return path
        tail = path[-1]
        head = split_node(tail, len(tail.tokens) - surplus)
        mx.async_eval(head.arrays(), tail.arrays())
        self._account(tail)
        self._account(head)
        # A file of what follows the head is of no use without one of the head.
        self._note(model, head)
        return [*path[:-1], head]

    def _hold(self, model: str, span: RadixNode, path: list[RadixNode]) -> None:
        """Take a span that follows `path`, or that has grown, if there is room for it."""
        self._touch(path)
        if sum(self._spans[held] for held in path) + span.nbytes > self._limit_bytes:
            if span in self._spans:
                span.states = None
            return
        mx.async_eval(span.arrays())
        span.attach()
        self._account(span)
        self._touch([*path, span])
        self.shrink(self._limit_bytes)
        self._note(model, span)

    def _note(self, model: str, span: RadixNode) -> None:
        if self._files is not None:
            self._unwritten.append((model, span))

    def _model_of(self, span: RadixNode) -> str:
        top = root_of(span)
        return next(model for model, root in self._roots.items() if root is top)

    def _account(self, span: RadixNode) -> None:
        self.nbytes += span.nbytes - self._spans.get(span, 0)
        self._spans[span] = span.nbytes

    def _forget(self, span: RadixNode) -> None:
        """Remove a span that has no children, as the oldest one never has."""
        if self._files is not None:
            self._files.forget(self._model_of(span), tokens_to(span))
        self.nbytes -= self._spans.pop(span)
        span.detach()

    def _touch(self, path: list[RadixNode]) -> None:
        """Make a path the youngest, each span younger than the next: leaves go first."""
        for span in reversed(path):
            self._spans.move_to_end(span)

    def _restore(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Hold a span that was on disk, as far as it goes beyond what is held."""
        tokens = tokens[: packed.length]
        path, matched = self._walk(model, tokens)
        if not packed.start <= matched < packed.length:
            return
        try:
            slices, states = unpack(packed)
        except DamagedFile as error:
            logger.warning("prompt cache: a file of model %s is ignored: %s", model, error)
            return
        parent = self._end(model, path := self._cut(model, path, matched))
        slices = cut_slices(slices, matched - packed.start, None)
        self._hold(model, RadixNode(parent, list(tokens[matched:]), slices, states or None), path)
