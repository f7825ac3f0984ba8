"""A text that the answer repeats with edits, such as code in which a name is replaced.

Where the answer parts from the text, one token is first taken for replaced by one. If the answer
goes on otherwise, the place where it comes back is looked for behind the one where it parted. What
was replaced in between is expected to be replaced wherever the text has it again, until it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.drafts.token_lookup import PAIR_TOKENS, TokenLookup

# The most tokens of an edit, on either side.
MAX_EDIT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Edit:
    """What the answer has in place of tokens of the text; neither is empty."""

    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Parting:
    """Where an answer parted: a place of the text, an index of the history.

    `matched` are the equal tokens before.
    """

    place: int
    index: int
    matched: int


class EditLookup:
    """Drafts from the text of a look-up as that has them, and on behind edits."""

    def __init__(self, lookup: TokenLookup) -> None:
        self._lookup = lookup
        self._text = lookup.text
        self._history = lookup.history
        # By the first token that is replaced.
        self._edits: dict[int, Edit] = {}
        # What is left of an edit in which the answer is.
        self._rest: tuple[int, ...] = ()
        self._parting: Parting | None = None
        self._place, self._matched = lookup.place, lookup.matched

    @property
    def matched(self) -> int:
        """How many of the last tokens agree, but for edits; 0 is no guess."""
        return max(self._matched, self._lookup.matched)

    def follow(self, token: int) -> None:
        """The answer goes on with this token, which is the last one of the history."""
        self._lookup.follow(token)
        if self._parting is not None:
            self._rejoin(self._parting, token)
        elif self._matched and not self._advance(token):
            self._part()
        if self._parting is None and self._lookup.matched > self._matched:
            self._place, self._matched, self._rest = self._lookup.place, self._lookup.matched, ()

    def skip(self) -> None:
        """The answer has gone on by several tokens, which end the history: look up the place."""
        self._lookup.skip()
        self._parting, self._rest = None, ()
        self._place, self._matched = self._lookup.place, self._lookup.matched

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that may come next; none without a guess."""
        if self._lookup.matched > self._matched:
            return self._lookup.propose(count)
        text, place, proposed = self._text, self._place, list(self._rest)
        while self._matched and len(proposed) < count and place < len(text):
            edit = self._edit_at(place)
            proposed += edit.new if edit is not None else text[place : place + 1]
            place += len(edit.old) if edit is not None else 1
        return self._lookup.extend(proposed, count)

    def _advance(self, token: int) -> bool:
        """Go on by one token, and say whether it is the one that was expected."""
        edit = None if self._rest else self._edit_at(self._place)
        if edit is not None and edit.new[0] == token:
            self._rest = edit.new
            self._place += len(edit.old)
        if self._rest:
            if self._rest[0] != token:
                return False
            self._rest = self._rest[1:]
        elif self._text[self._place] == token:
            self._place += 1
            if edit is not None:
                del self._edits[edit.old[0]]
        else:
            return False
        self._keep(self._matched + 1)
        return True

    def _part(self) -> None:
        """The token is another one: take that of the text for replaced by it."""
        self._parting = Parting(self._place, len(self._history) - 1, self._matched)
        self._place, self._rest = self._place + 1, ()
        self._keep(1)

    def _rejoin(self, parting: Parting, token: int) -> None:
        """Go on behind an edit, once the answer has again what the text has soon after it."""
        if self._matched and self._advance(token):
            self._learn(parting, old=1, new=1)
            return
        self._matched = 0
        history, text = self._history, self._text
        new = len(history) - PAIR_TOKENS - parting.index
        if new > MAX_EDIT_TOKENS:
            self._parting = None
            return
        pair = [*history[-PAIR_TOKENS:]]
        for old in range(MAX_EDIT_TOKENS + 1):
            place = parting.place + old + PAIR_TOKENS
            if place >= len(text):
                return
            if [*text[place - PAIR_TOKENS : place]] == pair:
                self._place = place
                self._learn(parting, old=old, new=new)
                return

    def _learn(self, parting: Parting, *, old: int, new: int) -> None:
        """Expect this edit again, and go on with the equal tokens before it."""
        place, index = parting.place, parting.index
        if old and new > 0:
            edit = Edit(
                tuple(self._text[place : place + old]), tuple(self._history[index : index + new])
            )
            self._edits[edit.old[0]] = edit
        self._parting = None
        self._keep(parting.matched + PAIR_TOKENS)

    def _keep(self, matched: int) -> None:
        """Set how many tokens agree: none at the end of the text."""
        self._matched = matched if self._rest or self._place < len(self._text) else 0

    def _edit_at(self, place: int) -> Edit | None:
        """The edit that the text's tokens from this place on had before."""
        if place >= len(self._text):
            return None
        edit = self._edits.get(self._text[place])
        if edit is None or tuple(self._text[place : place + len(edit.old)]) != edit.old:
            return None
        return edit
