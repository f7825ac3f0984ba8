"""Stop strings: found in text that arrives in parts, by one automaton (Aho and Corasick, 1975).

The cost of a character does not depend on the number of stop strings. The state of the
automaton is the longest end of the text with which a stop string begins, so its length is
also how much text must be held back.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence

CODE_POINT_BITS = 21
START = 0
# An automaton of the longest stop strings that a request may have takes about 3 MB.
CACHED_AUTOMATONS = 16


class StopAutomaton:
    """The automaton of several stop strings; states are numbers.

    `lengths` is how long the text of each state is, `matches` how long the longest stop string
    is that it ends with, 0 if none.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.first_characters = frozenset(text[0] for text in stop)
        self._next: dict[int, int] = {}
        self._failures = [START]
        self.lengths = [0]
        self.matches = [0]
        children: list[list[tuple[int, int]]] = [[]]
        for text in stop:
            self._add(text, children)
        for state, code, child in _breadth_first(children):
            if state != START:
                self._failures[child] = self.advance(self._failures[state], code)
            if not self.matches[child]:
                self.matches[child] = self.matches[self._failures[child]]

    def advance(self, state: int, code: int) -> int:
        """The state after the character with this code point."""
        while (found := self._next.get(state << CODE_POINT_BITS | code)) is None:
            if state == START:
                return START
            state = self._failures[state]
        return found

    def _add(self, text: str, children: list[list[tuple[int, int]]]) -> None:
        state = START
        for code in map(ord, text):
            key = state << CODE_POINT_BITS | code
            if key not in self._next:
                self._next[key] = child = len(self.lengths)
                children[state].append((code, child))
                children.append([])
                self._failures.append(START)
                self.lengths.append(self.lengths[state] + 1)
                self.matches.append(0)
            state = self._next[key]
        self.matches[state] = len(text)


def _breadth_first(children: list[list[tuple[int, int]]]) -> Iterator[tuple[int, int, int]]:
    """Each edge of the tree, shorter texts first: a state, a code point, and the state after it."""
    states = deque([START])
    while states:
        state = states.popleft()
        for code, child in children[state]:
            yield state, code, child
            states.append(child)


# The answers of one request share an automaton, and a preempted request finds it again.
compile_stop_strings = functools.lru_cache(CACHED_AUTOMATONS)(StopAutomaton)


class StopStrings:
    """Finds the stop string that is completed first, for any division of the text into deltas.

    Of two that end together, the longer one counts.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._automaton = compile_stop_strings(tuple(stop)) if stop else None
        self._state = START
        self._held = ""
        self.matched = False
        # The stop string that was found.
        self.found: str | None = None
        self.dropped_chars = 0

    def push(self, delta: str) -> str:
        """The text that `delta` releases. Once `matched`, all text is dropped."""
        automaton = self._automaton
        if automaton is None:
            return delta
        if self.matched:
            return ""
        if self._state == START and automaton.first_characters.isdisjoint(delta):
            return delta
        window = self._held + delta
        for end, character in enumerate(delta, len(self._held) + 1):
            self._state = automaton.advance(self._state, ord(character))
            if length := automaton.matches[self._state]:
                return self._match(window, end - length, end)
        released_chars = len(window) - automaton.lengths[self._state]
        self._held = window[released_chars:]
        return window[:released_chars]

    @property
    def held_chars(self) -> int:
        """How many characters are held back."""
        return len(self._held)

    def flush(self) -> str:
        """Release the text held back, which became no stop string."""
        held, self._held, self._state = self._held, "", START
        return held

    def _match(self, window: str, start: int, end: int) -> str:
        self.matched = True
        self.found = window[start:end]
        self._held = ""
        self.dropped_chars = len(window) - start
        return window[:start]
