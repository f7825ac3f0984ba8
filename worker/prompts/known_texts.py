"""Token ids of texts that begin as earlier ones do: only what follows is tokenized.

A conversation's text is the last one's with a turn more, and other texts of it are made to find
its cache breakpoints. Tokenizers of the `tokenizers` library cut a text at its control tokens
first and convert each part apart, so the ids before a control token do not depend on what
follows it. A text is cut at the last control token that it has in common with an earlier one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import Any, NamedTuple

from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import PreTrainedTokenizerBase

MAX_TEXTS = 64
# At most 32 MB of texts and ids, some 10 MB if they are of ASCII.
MAX_CHARS = 4 * 1024 * 1024
# Shorter texts are tokenized sooner than they are compared.
MIN_CHARS = 2048
PROBE = "{mark}user\nIt is  12345 metres,\n\n wörld{mark} x {mark}  \u2581y{mark}{mark}z\n{mark}"


class Mark(NamedTuple):
    """A control token in a text: the place of its first character, and of its id."""

    char: int
    token: int


class KnownText(NamedTuple):
    """A text, its ids, and its control tokens in order."""

    text: str
    ids: array[int]
    marks: list[Mark]


class KnownTexts:
    """The most recently used texts of one tokenizer; shorter ones than `min_chars` are not kept."""

    def __init__(self, tokenizer: TokenizerWrapper, *, min_chars: int = MIN_CHARS) -> None:
        self._tokenizer: Any = tokenizer._tokenizer
        self._min_chars = min_chars
        self._known: OrderedDict[str, KnownText] = OrderedDict()
        self._chars = 0
        self._marks: dict[int, str] = {}
        added = added_tokens(self._tokenizer)
        self._longest_mark = max((len(token.content) for token in added.values()), default=0)
        marks = {id: token.content for id, token in added.items() if is_mark(token)}
        if type(self._tokenizer).encode is PreTrainedTokenizerBase.encode and marks:
            self._marks = marks
            if not self._cuts_anywhere():
                self._marks = {}

    @property
    def is_usable(self) -> bool:
        """Whether this tokenizer cuts texts at control tokens."""
        return bool(self._marks)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without those that the tokenizer adds to each."""
        if not self._marks or len(text) < self._min_chars:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
            return ids
        known = self._known.get(text)
        if known is None:
            known = self._continue(*self._closest(text), text)
        self._keep(known)
        return known.ids.tolist()

    def _closest(self, text: str) -> tuple[KnownText | None, int]:
        """The known text that has most in common with this one, and how many characters."""
        best, most = None, 0
        for known in reversed(self._known.values()):
            if known.text.startswith(text[: most + 1]):
                best, most = known, common_chars(known.text, text)
        return best, most

    def _continue(self, known: KnownText | None, common: int, text: str) -> KnownText:
        """Tokenize a text that begins as a known one does."""
        marks = known.marks if known is not None else []
        # What is a control token here may depend on as many characters.
        last = common - self._longest_mark
        place = bisect_right(marks, last, key=lambda mark: mark.char)
        if known is None or not place:
            return self._tokenize(text)
        start = marks[place - 1]
        rest = self._tokenize(text[start.char :])
        if not rest.ids or rest.ids[0] != known.ids[start.token]:
            return self._tokenize(text)
        moved = [Mark(char + start.char, token + start.token) for char, token in rest.marks]
        ids = known.ids[: start.token] + rest.ids
        return KnownText(text, ids, [*marks[: place - 1], *moved])

    def _tokenize(self, text: str) -> KnownText:
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[int] = encoded["input_ids"]
        marks = []
        for place, id in enumerate(ids):
            if (content := self._marks.get(id)) is not None:
                char = encoded.token_to_chars(place).start
                if text.startswith(content, char):
                    marks.append(Mark(char, place))
        return KnownText(text, array("i", ids), marks)

    def _keep(self, known: KnownText) -> None:
        if len(known.text) > MAX_CHARS:
            return
        if known.text not in self._known:
            self._known[known.text] = known
            self._chars += len(known.text)
        self._known.move_to_end(known.text)
        while len(self._known) > MAX_TEXTS or self._chars > MAX_CHARS:
            self._chars -= len(self._known.popitem(last=False)[0])

    def _cuts_anywhere(self) -> bool:
        """Whether a text cut at any of its control tokens has the ids of the whole text."""
        text = PROBE.format(mark=next(iter(self._marks.values())))
        try:
            whole = self._tokenize(text)
            cut = [
                self._continue(whole, mark.char + self._longest_mark, text) for mark in whole.marks
            ]
        except (AttributeError, TypeError, ValueError):
            # It is no tokenizer of that library.
            return False
        ids = array("i", self._tokenizer.encode(text, add_special_tokens=False))
        return bool(whole.marks) and all(each.ids == ids for each in (whole, *cut))


def added_tokens(tokenizer: Any) -> dict[int, Any]:
    """The tokens that were added to a vocabulary, by id."""
    return dict(getattr(tokenizer, "added_tokens_decoder", {}))


def is_mark(token: Any) -> bool:
    """Whether a text is cut at this token, whatever is around it."""
    is_free = not (token.normalized or token.single_word or token.lstrip)
    return bool(token.special and is_free and token.content)


def common_chars(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    least, most = 0, min(len(first), len(second))
    if first[:most] == second[:most]:
        return most
    while least < most - 1:
        middle = (least + most) // 2
        if first[least:middle] == second[least:middle]:
            least = middle
        else:
            most = middle
    return least
