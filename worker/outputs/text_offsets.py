"""Where each token of a prompt starts in the prompt's text.

The tokens do not always spell the text: vocabularies add a space before the first word,
normalise characters, and add control tokens.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

# How far ahead a token is searched that does not follow the one before it.
SEARCH_BYTES = 64


def text_offsets(text: str, tokens: Sequence[bytes], absent: Container[int] = ()) -> Iterator[int]:
    """The start of each token, in characters; a token that is not in the text has no length.

    `absent` are the indices of tokens that are searched nowhere else than where they are due.
    """
    encoded, position, characters = text.encode(), 0, 0
    for index, token in enumerate(tokens):
        start = _find(encoded, token, position, search=index not in absent)
        if start is None:
            yield characters
            continue
        begin, length = start
        characters += _count_characters(encoded[position:begin])
        yield characters
        characters += _count_characters(encoded[begin : begin + length])
        position = begin + length


def _find(encoded: bytes, token: bytes, position: int, *, search: bool) -> tuple[int, int] | None:
    """Where the token starts at or after `position`, and its length there; None if nowhere."""
    word = token.removeprefix(b" ")
    for spelled in (token, word):
        if encoded.startswith(spelled, position):
            return position, len(spelled)
    begin = encoded.find(word, position, position + SEARCH_BYTES) if search else -1
    return None if begin < 0 else (begin, len(word))


def _count_characters(encoded: bytes) -> int:
    """Continuation bytes of UTF-8 start no character."""
    return sum(byte & 0xC0 != 0x80 for byte in encoded)
