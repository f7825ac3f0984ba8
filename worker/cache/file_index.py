"""Which files the prompt cache has on disk, in memory: a look-up makes no system call.

A file's name has the number of tokens from the root to its node's end, the hash of these tokens,
and the hash of those of them before its last block of `BLOCK_TOKENS`. So a look-up computes one
hash for each block of a prompt, and of the files only those that agree up to their last block
are compared: its time does not grow with the number of files.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

BLOCK_TOKENS = 256
HASH_BYTES = 16
BLOCK_HASH_BYTES = 8
# The most lengths that a look-up compares, where many prompts share a beginning: 1 ms.
MAX_COMPARED_LENGTHS = 1024
FILE_NAME = re.compile(r"(\d{1,9})-([0-9a-f]{16})-([0-9a-f]{32})\.safetensors")


class NodeName(NamedTuple):
    """The node after `length` tokens. `model` is the key of the model's content."""

    model: str
    length: int
    block_hash: str
    hash: str

    @property
    def file_name(self) -> str:
        return f"{self.length}-{self.block_hash}-{self.hash}.safetensors"


def parse_name(model: str, file_name: str) -> NodeName | None:
    """The node of a file; None if its name is not one of ours."""
    match = FILE_NAME.fullmatch(file_name)
    return match and NodeName(model, int(match[1]), match[2], match[3])


def name_of(model: str, tokens: Sequence[int]) -> NodeName:
    """The name of the node after exactly `tokens`."""
    length = len(tokens)
    hashes = PrefixHashes(tokens)
    block_hash = hashes.block_hash(length - length % BLOCK_TOKENS)
    return NodeName(model, length, block_hash, hashes.hash(length))


class PrefixHashes:
    """Hashes of the prefixes of `tokens`; ask for them in ascending order of length."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._content = np.fromiter(tokens, np.int32, len(tokens)).data
        self._digest = hashlib.blake2b(digest_size=HASH_BYTES)
        self._hashed = 0

    def hash(self, length: int) -> str:
        """The hash of the first `length` tokens."""
        self._digest.update(self._content[self._hashed : length])
        self._hashed = length
        return self._digest.hexdigest()

    def block_hash(self, length: int) -> str:
        """A shorter hash, of the tokens before a block."""
        return self.hash(length)[: 2 * BLOCK_HASH_BYTES]


class FileIndex:
    """The sizes of all files in bytes, least recently used first. Not thread-safe."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._sizes: OrderedDict[NodeName, int] = OrderedDict()
        # For each model and block hash the lengths of the files there, and how many have each.
        self._lengths: dict[tuple[str, str], dict[int, int]] = {}
        # No file of the model is longer; a look-up needs no more of a prompt.
        self._longest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, name: NodeName) -> bool:
        return name in self._sizes

    def add(self, name: NodeName, size: int) -> None:
        """Add a file as the one used last, or change its size."""
        if name not in self._sizes:
            lengths = self._lengths.setdefault((name.model, name.block_hash), {})
            lengths[name.length] = lengths.get(name.length, 0) + 1
            self._longest[name.model] = max(name.length, self._longest.get(name.model, 0))
        self.nbytes += size - self._sizes.get(name, 0)
        self._sizes[name] = size
        self._sizes.move_to_end(name)

    def touch(self, name: NodeName) -> None:
        """Mark a file as the one used last, if it is there."""
        if name in self._sizes:
            self._sizes.move_to_end(name)

    def remove(self, name: NodeName) -> None:
        """Remove a file, if it is there."""
        if name not in self._sizes:
            return
        self.nbytes -= self._sizes.pop(name)
        lengths = self._lengths[name.model, name.block_hash]
        lengths[name.length] -= 1
        if not lengths[name.length]:
            del lengths[name.length]
        if not lengths:
            del self._lengths[name.model, name.block_hash]

    def pop_oldest(self, nbytes: int) -> list[NodeName]:
        """Remove the least recently used files with at least `nbytes` in all, or all files."""
        removed: list[NodeName] = []
        kept = max(0, self.nbytes - nbytes)
        while self._sizes and self.nbytes > kept:
            removed.append(name := next(iter(self._sizes)))
            self.remove(name)
        return removed

    def find(self, model: str, tokens: Sequence[int]) -> list[NodeName]:
        """The files of the proper prefixes of `tokens`, the shortest first."""
        names = self._candidates(model, tokens)
        return [name for name in names if name in self._sizes]

    def _candidates(self, model: str, tokens: Sequence[int]) -> Iterator[NodeName]:
        if len(tokens) > (needed := self._longest.get(model, 0) + 1):
            tokens = tokens[:needed]
        hashes = PrefixHashes(tokens)
        compared = 0
        for start in range(0, len(tokens), BLOCK_TOKENS):
            block_hash = hashes.block_hash(start)
            for length in sorted(self._lengths.get((model, block_hash), ())):
                if not start <= length < len(tokens) or compared == MAX_COMPARED_LENGTHS:
                    break
                compared += 1
                yield NodeName(model, length, block_hash, hashes.hash(length))
