"""The prompts that a model has computed, as token ids alone: what a new prompt has in common.

The prompt cache knows what is still cached. This also knows what was evicted, or could not be
cached, so that a reply can say where its prompt parted from an earlier one, and prefill stops
where the next one will (`restore_points`). A prompt replaces the one that it goes on from, so a
conversation is one entry, however many turns it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# 4 MiB of token ids; of longer prompts only the first part is known.
MAX_TOKENS = 1 << 20
MAX_PROMPTS = 128
CHUNK_TOKENS = 4096
# The first tokens, which are compared with those of all prompts at once: most differ there.
HEAD_TOKENS = 256
# In place of the tokens that a prompt does not have.
NO_TOKEN = -(2**31)

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Lengths = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Closest(NamedTuple):
    """How many tokens a prompt has in common with the closest known one.

    `differs` says that the known prompt goes on with another token, not that it ends there.
    """

    tokens: int = 0
    differs: bool = False


NOTHING_KNOWN = Closest()


@dataclass(eq=False, slots=True, repr=False)
class KnownPrompt:
    """A prompt of `length` tokens, which its answer may follow.

    `tails` are how far from its end the next prompt is expected to part from it.
    """

    tokens: Tokens
    length: int
    tails: Sequence[int] = ()


class Match(NamedTuple):
    """A known prompt, and how many tokens a new one has in common with it and its answer."""

    known: KnownPrompt
    common: int

    @property
    def tail(self) -> int:
        """How many tokens of the known prompt the new one does not have."""
        return max(self.known.length - self.common, 0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A new prompt, and what it has in common with those known before.

    `known` and `common` are by row, `used` is greater the later a prompt was used; 0 is no prompt.
    """

    prompt: KnownPrompt
    closest: Closest
    known: Sequence[KnownPrompt | None]
    common: Lengths
    used: Lengths

    @property
    def matches(self) -> list[Match]:
        """All that were known before, the last used first."""
        rows = np.argsort(-self.used).tolist()
        pairs = [(self.known[row], int(self.common[row])) for row in rows]
        return [Match(known, common) for known, common in pairs if known is not None]


class KnownPrompts:
    """The most recently used prompts of one model, within bounds."""

    def __init__(self, max_tokens: int = MAX_TOKENS, max_prompts: int = MAX_PROMPTS) -> None:
        self._max_tokens = max_tokens
        self._max_prompts = max_prompts
        self._held_tokens = self._uses = 0
        # All of these are by row, which is a prompt or free. A comparison reads each as a whole.
        rows = max_prompts + 1
        self._prompts: list[KnownPrompt | None] = [None] * rows
        self._free_rows = list(range(max_prompts, -1, -1))
        self._heads = np.full((rows, HEAD_TOKENS), NO_TOKEN, np.int32)
        # How many tokens are known, how many of them are the prompt's, and when it was used.
        self._sizes, self._lengths, self._used = np.zeros((3, rows), np.int64)

    def __len__(self) -> int:
        return len(self._prompts) - len(self._free_rows)

    def note(self, prompt: Sequence[int]) -> Comparison:
        """Compare a prompt with those that are known; from now on it is one of them."""
        noted = KnownPrompt(to_array(prompt[: self._max_tokens]), len(prompt))
        common = self._compare(noted.tokens)
        closest = self._find_closest(common, len(noted.tokens))
        compared = Comparison(noted, closest, [*self._prompts], common, self._used.copy())
        self._add(noted, common)
        return compared

    def note_answer(self, tokens: Sequence[int]) -> None:
        """Note what was computed of a known prompt, and of its answer."""
        computed = to_array(tokens[: self._max_tokens])
        common = self._compare(computed)
        own = [self._prompts[row] for row in self._find(common >= self._lengths)]
        prompt = max(filter(None, own), key=lambda known: known.length, default=None)
        if prompt is None:
            self._add(KnownPrompt(computed, len(computed)), common)
        else:
            self._add(KnownPrompt(computed, prompt.length, prompt.tails), common)

    def _compare(self, tokens: Tokens) -> Lengths:
        """How many tokens the prompt of each row has in common with these at the beginning."""
        common = common_lengths(self._heads, tokens[:HEAD_TOKENS])
        for row in self._find(common == HEAD_TOKENS):
            if (known := self._prompts[row]) is not None:
                common[row] = common_length(known.tokens, tokens, HEAD_TOKENS)
        return common

    def _find_closest(self, common: Lengths, size: int) -> Closest:
        most = int(common.max())
        goes_on = most < size and bool((self._sizes[common == most] > most).any())
        return Closest(most, goes_on)

    def _find(self, condition: Flags) -> list[int]:
        """The rows of the prompts for which this holds, the last used first."""
        rows: list[int] = np.flatnonzero(condition & (self._used > 0)).tolist()
        return sorted(rows, key=self._used.__getitem__, reverse=True) if len(rows) > 1 else rows

    def _add(self, noted: KnownPrompt, common: Lengths) -> None:
        """Keep a prompt in place of those that it goes on from, unless it is in another one."""
        size = len(noted.tokens)
        self._uses += 1
        if holders := self._find(common == size):
            self._used[holders[0]] = self._uses
            return
        for row in self._find(common == self._sizes):
            self._remove(row)
        row = self._free_rows.pop()
        self._prompts[row], self._held_tokens = noted, self._held_tokens + size
        self._heads[row, :size] = noted.tokens[:HEAD_TOKENS]
        self._sizes[row], self._lengths[row], self._used[row] = size, noted.length, self._uses
        while len(self) > self._max_prompts or self._held_tokens > self._max_tokens:
            self._remove(int(np.where(self._used > 0, self._used, self._uses + 1).argmin()))

    def _remove(self, row: int) -> None:
        self._held_tokens -= int(self._sizes[row])
        self._prompts[row] = None
        self._heads[row] = NO_TOKEN
        self._sizes[row] = self._lengths[row] = self._used[row] = 0
        self._free_rows.append(row)


def to_array(tokens: Sequence[int]) -> Tokens:
    """Token ids as an array."""
    return np.fromiter(tokens, np.int32, len(tokens))


def common_lengths(heads: Tokens, tokens: Tokens) -> Lengths:
    """How many tokens each row of `heads` has in common with these at the beginning."""
    if not len(tokens):
        return np.zeros(len(heads), np.int64)
    differs = heads[:, : len(tokens)] != tokens
    lengths: Lengths = differs.argmax(axis=1)
    # Nothing differs where the first place is the greatest, and is not one that does.
    lengths[(lengths == 0) & ~differs[:, 0]] = len(tokens)
    return lengths


def common_length(first: Tokens, second: Tokens, start: int = 0) -> int:
    """How many tokens two prompts have in common at their beginning, of which `start` are known."""
    length = min(len(first), len(second))
    for begin in range(start, length, CHUNK_TOKENS):
        end = min(begin + CHUNK_TOKENS, length)
        differs = first[begin:end] != second[begin:end]
        place = int(differs.argmax())
        if differs[place]:
            return begin + place
    return length
