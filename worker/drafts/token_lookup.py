"""A text whose words may come again: the prompt and the answer so far, or a prediction.

An answer that repeats a place of the text is expected to go on as the text does. The place is
kept while that is so. After a token that differs it is looked up again by the last two tokens:
of the latest places where the text has them, the one with the longest run of equal tokens before
it is taken. Where there is none, the latest place behind the last token alone is taken, if the
text has this token seldom. Each token costs the same, whatever the length of the text, and the
text is entered in linear time.
"""

from __future__ import annotations

from collections.abc import Sequence

# The tokens by which a place is found.
PAIR_TOKENS = 2
MAX_PLACES = 16
# A token that the text has more often than this says too little of what comes next.
MAX_SINGLE_PLACES = 3
MAX_COMPARED_TOKENS = 32
# More of a longer text is not entered: the first tokens of a text are left out.
MAX_ENTERED_TOKENS = 1 << 16


class TokenLookup:
    """Drafts from `text`; `history` are the tokens of prompt and answer, and may be the text.

    A text that `is_beginning` is expected from the answer's first token on.
    """

    def __init__(
        self, text: Sequence[int], history: Sequence[int], *, is_beginning: bool = False
    ) -> None:
        self.text = text
        self.history = history
        self._grows = text is history
        # By the pair of tokens before it: the latest place, and the place before each place.
        self._latest: dict[tuple[int, int], int] = {}
        self._earlier: dict[int, int] = {}
        # By the token before it: the latest place, and how many there are.
        self._single: dict[int, tuple[int, int]] = {}
        self._entered = max(PAIR_TOKENS - 1, len(text) - MAX_ENTERED_TOKENS)
        self.place = 0
        self.matched = PAIR_TOKENS if is_beginning and text else 0
        self._enter(len(text) - 1)
        if not self.matched:
            self._find()

    def follow(self, token: int) -> None:
        """The answer goes on with this token, which is the last one of the history."""
        if self.matched and self.text[self.place] == token:
            self.place += 1
            self.matched += 1
            if self.place == len(self.text):
                self.matched = 0
        else:
            self.matched = 0
        if self._grows:
            # The place behind the last token has no next token yet.
            self._enter(len(self.text) - 1)
        if not self.matched:
            self._find()

    def skip(self) -> None:
        """The answer has gone on by several tokens, which end the history: look up the place."""
        self.matched = 0
        if self._grows:
            self._enter(len(self.text) - 1)
        self._find()

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that may come next; none without a guess."""
        if not self.matched:
            return []
        return self.extend(list(self.text[self.place : self.place + count]), count)

    def extend(self, proposed: list[int], count: int) -> list[int]:
        """Up to `count` tokens: a text that repeats itself goes on with what is proposed of it."""
        if self._grows and proposed:
            for index in range(count - len(proposed)):
                proposed.append(proposed[index])
        return proposed[:count]

    def _enter(self, end: int) -> None:
        """Enter the places before `end`, by the two tokens before each."""
        text, latest, single = self.text, self._latest, self._single
        for place in range(self._entered + 1, end + 1):
            pair = text[place - 2], text[place - 1]
            before = latest.get(pair)
            if before is not None:
                self._earlier[place] = before
            latest[pair] = place
            _, count = single.get(pair[1], (0, 0))
            single[pair[1]] = place, count + 1
        self._entered = max(self._entered, end)

    def _find(self) -> None:
        history = self.history
        if len(history) < PAIR_TOKENS:
            return
        place = self._latest.get((history[-2], history[-1]))
        for _ in range(MAX_PLACES):
            if place is None:
                break
            length = self._compare(place)
            if length > self.matched:
                self.place, self.matched = place, length
            place = self._earlier.get(place)
        if not self.matched:
            place, count = self._single.get(history[-1], (0, 0))
            if 0 < count <= MAX_SINGLE_PLACES:
                self.place, self.matched = place, 1

    def _compare(self, place: int) -> int:
        """How many of the tokens before a place of the text are the last ones of the history."""
        text, history = self.text, self.history
        most = min(place, len(history), MAX_COMPARED_TOKENS)
        length = PAIR_TOKENS
        while length < most and text[place - 1 - length] == history[-1 - length]:
            length += 1
        return length
