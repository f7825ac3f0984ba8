"""Which files the prompt cache has on disk, in memory: a look-up makes no system call.

A file's name has the number of tokens from the root to its node's end, the hash of these tokens,
and the hash of those of them before its last block of `BLOCK_TOKENS`. A node that can be cut has
where it begins, too: the number of the tokens before it, and their hash. So a look-up computes one
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
# How many files that begin at one place a look-up returns, those used last.
MAX_BEGINNING = 8
FILE_NAME = re.compile(
    r"(\d{1,9})-([0-9a-f]{16})-([0-9a-f]{32})(?:-(\d{1,9})-([0-9a-f]{32}))?\.safetensors"
)


class Beginning(NamedTuple):
    """The place where a node begins: after `length` tokens with this hash."""

    length: int
    hash: str


class NodeName(NamedTuple):
    """The node after `length` tokens. `model` is the key of the model's content."""

    model: str
    length: int
    block_hash: str
    hash: str

    def file_name(self, beginning: Beginning | None = None) -> str:
        """The name of its file; of a node that can be cut, with where it begins."""
        begins = "" if beginning is None else f"-{beginning.length}-{beginning.hash}"
        return f"{self.length}-{self.block_hash}-{self.hash}{begins}.safetensors"


def parse_name(model: str, file_name: str) -> tuple[NodeName, Beginning | None] | None:
    """The node of a file, and where it begins; None if its name is not one of ours."""
    match = FILE_NAME.fullmatch(file_name)
    if match is None:
        return None
    name = NodeName(model, int(match[1]), match[2], match[3])
    return name, Beginning(int(match[4]), match[5]) if match[4] else None


def beginning_of(tokens: Sequence[int], start: int) -> Beginning:
    """The place after the first `start` of these tokens."""
    return Beginning(start, PrefixHashes(tokens[:start]).hash(start))


def name_of(model: str, tokens: Sequence[int]) -> NodeName:
    """The name of the node after exactly `tokens`."""
    length = len(tokens)
    hashes = PrefixHashes(tokens)
    block_hash = hashes.block_hash(length - length % BLOCK_TOKENS)
    return NodeName(model, length, block_hash, hashes.hash(length))


class PrefixHashes:
    """Hashes of the prefixes of `tokens`, of which those of whole blocks are computed once.

    The tokens are converted once: that takes longer than all else of a look-up.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._length = len(tokens)
        self._content = np.fromiter(tokens, np.int32, len(tokens)).data
        # After each whole block that is hashed.
        self._states = [hashlib.blake2b(digest_size=HASH_BYTES)]
        self._hashes = [self._states[0].hexdigest()]

    def __len__(self) -> int:
        return self._length

    def hash(self, length: int) -> str:
        """The hash of the first `length` tokens."""
        block, rest = divmod(length, BLOCK_TOKENS)
        self.hash_blocks(block)
        if not rest:
            return self._hashes[block]
        state = self._states[block].copy()
        state.update(self._content[length - rest : length])
        return state.hexdigest()

    def block_hash(self, length: int) -> str:
        """A shorter hash, of the tokens before a block."""
        return self.hash(length)[: 2 * BLOCK_HASH_BYTES]

    def hash_blocks(self, count: int) -> None:
        """Hash the first `count` blocks, so that asking for their hashes takes no time."""
        for block in range(len(self._states), count + 1):
            state = self._states[-1].copy()
            state.update(self._content[(block - 1) * BLOCK_TOKENS : block * BLOCK_TOKENS])
            self._states.append(state)
            self._hashes.append(state.hexdigest())


class FileIndex:
    """The sizes of all files in bytes, least recently used first. Not thread-safe."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._sizes: OrderedDict[NodeName, int] = OrderedDict()
        # For each model and block hash the lengths of the files there, and how many have each.
        self._lengths: dict[tuple[str, str], dict[int, int]] = {}
        self._beginnings: dict[NodeName, Beginning] = {}
        # For each model and beginning the files of nodes that can be cut, in order of use.
        self._beginning_at: dict[tuple[str, Beginning], dict[NodeName, None]] = {}
        # No file of the model is longer; a look-up needs no more of a prompt.
        self._longest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, name: NodeName) -> bool:
        return name in self._sizes

    def size(self, name: NodeName) -> int:
        """The bytes of a file; 0 if it is not there."""
        return self._sizes.get(name, 0)

    def beginning(self, name: NodeName) -> Beginning | None:
        """Where the node of a file begins, if it can be cut."""
        return self._beginnings.get(name)

    def find_beginning(
        self, model: str, hashes: PrefixHashes, starts: Sequence[int]
    ) -> list[NodeName]:
        """The files that begin after so many of a prompt's tokens, of the last start first.

        How many tokens of them agree is not known from their names.
        """
        places = [Beginning(start, hashes.hash(start)) for start in sorted(set(starts))]
        found: list[NodeName] = []
        for place in reversed(places):
            names = list(self._beginning_at.get((model, place), ()))
            found += reversed(names[-MAX_BEGINNING:])
        return found

    def add(self, name: NodeName, size: int, beginning: Beginning | None = None) -> None:
        """Add a file as the one used last, or change its size."""
        if beginning is not None:
            self._beginnings[name] = beginning
            self._beginning_at.setdefault((name.model, beginning), {})[name] = None
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
        if (beginning := self._beginnings.pop(name, None)) is not None:
            names = self._beginning_at[name.model, beginning]
            del names[name]
            if not names:
                del self._beginning_at[name.model, beginning]
        lengths = self._lengths[name.model, name.block_hash]
        lengths[name.length] -= 1
        if not lengths[name.length]:
            del lengths[name.length]
        if not lengths:
            del self._lengths[name.model, name.block_hash]

    def list_oldest(self, nbytes: int) -> list[NodeName]:
        """The least recently used files with at least `nbytes` in all, or all files."""
        oldest: list[NodeName] = []
        for name, size in self._sizes.items():
            if nbytes <= 0:
                break
            oldest.append(name)
            nbytes -= size
        return oldest

    def needed_length(self, model: str, length: int) -> int:
        """How many of a prompt's `length` tokens a look-up needs: no file is longer."""
        return min(length, self._longest.get(model, 0) + 1)

    def find(self, model: str, hashes: PrefixHashes) -> list[NodeName]:
        """The files of the proper prefixes of these tokens, the shortest first."""
        names = self._candidates(model, hashes)
        return [name for name in names if name in self._sizes]

    def _candidates(self, model: str, hashes: PrefixHashes) -> Iterator[NodeName]:
        needed = self.needed_length(model, len(hashes))
        compared = 0
        for start in range(0, needed, BLOCK_TOKENS):
            block_hash = hashes.block_hash(start)
            for length in sorted(self._lengths.get((model, block_hash), ())):
                if not start <= length < needed or compared == MAX_COMPARED_LENGTHS:
                    break
                compared += 1
                yield NodeName(model, length, block_hash, hashes.hash(length))
