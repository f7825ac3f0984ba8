"""Texts as parts of a grammar in llguidance's Lark.

Markers that are special tokens of the vocabulary are token ids or their text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import regex

# Any text without the markers that are tokens.
FREE_TEXT = r"/(.|\n)*/"
# White space that a syntax allows, as a pattern, and in a grammar.
SPACE_PATTERN = r"[ \t\n]{0,8}"
SPACE = f"/{SPACE_PATTERN}/"
PATTERN_CHARACTERS = regex.compile(r"[.^$*+?{}\[\]\\|()/\"]")

# The ids of the vocabulary's special tokens, by their text.
SpecialTokens = Mapping[str, int]


def until_rules(rule: str, marker: str, special_tokens: SpecialTokens) -> list[str]:
    """The Lark rules of any text up to the first `marker`, and of the marker.

    A vocabulary may have the marker as a token, and spell it, too.
    """
    spelled = f"{rule}_text[lazy]: /(.|\\n)*{to_pattern(marker)}/"
    token = special_tokens.get(marker)
    if token is not None:
        return [f"{rule}: {FREE_TEXT} <[{token}]> | {rule}_text", spelled]
    if split_markers(marker, special_tokens)[0] in special_tokens:
        return [f"{rule}: {FREE_TEXT} {to_lark(marker, special_tokens)} | {rule}_text", spelled]
    return [f"{rule}: {rule}_text", spelled]


def to_pattern(text: str) -> str:
    """A regular expression of Lark that matches `text`."""
    escaped: str = PATTERN_CHARACTERS.sub(r"\\\g<0>", text)
    return escaped.replace("\n", r"\n")


def to_lark(text: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence that matches `text`; its white space is optional, but between words.

    Answers are parsed as text, so a marker that is a token may also be spelled.
    """
    parts: list[str] = []
    for piece in split_markers(text, special_tokens):
        is_token = piece in special_tokens
        parts += [to_piece(piece, special_tokens)] if is_token else lark_strings(piece)
    return " ".join(parts)


def to_exact(text: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence that matches `text` with all of its white space."""
    return " ".join(
        to_piece(piece, special_tokens) for piece in split_markers(text, special_tokens)
    )


def to_piece(piece: str, special_tokens: SpecialTokens) -> str:
    """The Lark text of a marker that may be a token, or of other text."""
    token = special_tokens.get(piece)
    return json.dumps(piece) if token is None else f"(<[{token}]> | {json.dumps(piece)})"


def split_markers(text: str, special_tokens: SpecialTokens) -> list[str]:
    """The text in pieces: the markers that are tokens, and what is between."""
    markers = [marker for marker in special_tokens if marker in text]
    if not markers:
        return [text] if text else []
    pattern = "|".join(regex.escape(each) for each in sorted(markers, key=len, reverse=True))
    return list(filter(None, regex.split(f"({pattern})", text)))


def lark_strings(text: str) -> list[str]:
    """Lark strings of the words; white space that may be left out is optional, each of its own."""
    words = regex.findall(r"(?:\b\s\b|\S)+|\s", text)
    return [f"({json.dumps(w)})?" if w.isspace() else json.dumps(w) for w in words]


# An attribute or a word in a tag, which needs a space before it; other spaces are optional.
WORD_SPACE = regex.compile(r"\{attributes\} ?(?=\w)| (?=\w)")
TEMPLATE_PARTS = regex.compile(r"(\{\w+\}| )")
ANY_WORD = r"/[\w.:-]{1,64}/"
ATTRIBUTES = r"/[^<>]{0,64}/"
PLACEHOLDERS = {" ": SPACE, "{id}": ANY_WORD, "{type}": ANY_WORD, "{attributes}": ATTRIBUTES}
MANDATORY = "\0"


def to_template(
    template: str, special_tokens: SpecialTokens, values: Mapping[str, str] = PLACEHOLDERS
) -> str:
    """A Lark sequence of a syntax's text; `values` are the Lark texts of its placeholders."""
    template = WORD_SPACE.sub(MANDATORY, template)
    parts = filter(None, TEMPLATE_PARTS.split(template))
    return " ".join(
        values.get(part) or PLACEHOLDERS.get(part)
        or to_exact(part.replace(MANDATORY, " "), special_tokens)
        for part in parts
    )  # fmt: skip


def any_of(choices: Iterable[str]) -> str:
    """A Lark group of alternatives."""
    return f"({' | '.join(choices)})"
