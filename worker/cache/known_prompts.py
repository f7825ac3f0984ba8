"""The prompts that a model has computed, as token ids alone: what a new prompt has in common.

The prompt cache knows what is still cached. This also knows what was evicted, or could not be
cached, so that a reply can say where its prompt parted from an earlier one, and prefill stops
where the next one will (`restore_points`). A prompt replaces the one that it goes on from, so a
conversation is one entry, however many turns it has.
"""

from __future__ import annotations

from collections import OrderedDict
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

    `tails` are how far from its end the next prompt is expected to part from it, `row` where its
    head is while it is known.
    """

    tokens: Tokens
    length: int
    tails: Sequence[int] = ()
    row: int = -1


class Match(NamedTuple):
    """A known prompt, and how many tokens a new one has in common with it and its answer."""

    known: KnownPrompt
    common: int

    @property
    def tail(self) -> int:
        """How many tokens of the known prompt the new one does not have."""
        return max(self.known.length - self.common, 0)


class Comparison(NamedTuple):
    """A new prompt, and what it has in common with those known before, the last used first."""

    prompt: KnownPrompt
    matches: Sequence[Match]

    @property
    def closest(self) -> Closest:
        """What is in common with the closest one."""
        common = max((match.common for match in self.matches), default=0)
        if common == len(self.prompt.tokens):
            return Closest(common)
        known = [match.known for match in self.matches if match.common == common]
        return Closest(common, any(len(each.tokens) > common for each in known))


class KnownPrompts:
    """The most recently used prompts of one model, within bounds."""

    def __init__(self, max_tokens: int = MAX_TOKENS, max_prompts: int = MAX_PROMPTS) -> None:
        self._max_tokens = max_tokens
        self._max_prompts = max_prompts
        # Least recently used first.
        self._prompts: OrderedDict[KnownPrompt, None] = OrderedDict()
        self._held_tokens = 0
        # The first tokens of each prompt, and the rows that have none.
        self._heads = np.full((max_prompts + 1, HEAD_TOKENS), NO_TOKEN, np.int32)
        self._free_rows = list(range(max_prompts, -1, -1))

    def __len__(self) -> int:
        return len(self._prompts)

    def note(self, prompt: Sequence[int]) -> Comparison:
        """Compare a prompt with those that are known; from now on it is one of them."""
        noted = KnownPrompt(to_array(prompt[: self._max_tokens]), len(prompt))
        matches = self._compare(noted.tokens)
        self._add(noted, matches)
        return Comparison(noted, matches)

    def note_answer(self, tokens: Sequence[int]) -> None:
        """Note what was computed of a known prompt, and of its answer."""
        computed = to_array(tokens[: self._max_tokens])
        matches = self._compare(computed)
        own = [match.known for match in matches if match.common >= match.known.length]
        prompt = max(own, key=lambda known: known.length, default=None)
        if prompt is None:
            self._add(KnownPrompt(computed, len(computed)), matches)
        else:
            self._add(KnownPrompt(computed, prompt.length, prompt.tails), matches)

    def _compare(self, tokens: Tokens) -> list[Match]:
        head = tokens[:HEAD_TOKENS]
        common = common_lengths(self._heads, head)
        matches = []
        for known in reversed(self._prompts):
            length = common[known.row]
            if length == HEAD_TOKENS:
                length = common_length(known.tokens, tokens, HEAD_TOKENS)
            matches.append(Match(known, length))
        return matches

    def _add(self, noted: KnownPrompt, matches: Sequence[Match]) -> None:
        """Keep a prompt in place of those that it goes on from, unless it is in another one."""
        size = len(noted.tokens)
        holder = next((known for known, common in matches if common == size), None)
        if holder is not None:
            self._prompts.move_to_end(holder)
            return
        for known, common in matches:
            if common == len(known.tokens):
                self._remove(known)
        self._prompts[noted] = None
        self._held_tokens += size
        noted.row = self._free_rows.pop()
        self._heads[noted.row, :size] = noted.tokens[:HEAD_TOKENS]
        while len(self._prompts) > self._max_prompts or self._held_tokens > self._max_tokens:
            self._remove(next(iter(self._prompts)))

    def _remove(self, known: KnownPrompt) -> None:
        del self._prompts[known]
        self._held_tokens -= len(known.tokens)
        self._heads[known.row] = NO_TOKEN
        self._free_rows.append(known.row)


def to_array(tokens: Sequence[int]) -> Tokens:
    """Token ids as an array."""
    return np.fromiter(tokens, np.int32, len(tokens))


def common_lengths(heads: Tokens, tokens: Tokens) -> list[int]:
    """How many tokens each row of `heads` has in common with these at the beginning."""
    if not len(tokens):
        return [0] * len(heads)
    differs = heads[:, : len(tokens)] != tokens
    lengths = differs.argmax(axis=1)
    lengths[~differs.any(axis=1)] = len(tokens)
    common: list[int] = lengths.tolist()
    return common


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
