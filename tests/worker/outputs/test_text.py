"""Text comes out whole, and no part of a stop string ever does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.outputs.detokenizer import ByteDetokenizer, WithoutLeadingSpace
from worker.outputs.segmenter import Markers, Segmenter
from worker.outputs.text import StopStrings, Text
from worker.tool_calls.deltas import ContentDelta, OutputDelta

pieces = st.lists(st.text("ab\u00e9\U0001f600", max_size=4), max_size=12)
stop_lists = st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=4), max_size=4)


def cut(pieces: Sequence[str], stop: Sequence[str]) -> tuple[str, bool]:
    """What is released of text that comes in these pieces."""
    stops = StopStrings(stop)
    text = "".join(stops.push(piece) for piece in pieces)
    matched = stops.matched
    return text + stops.flush(), matched


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, reading letter by letter."""
    for end in range(len(text) + 1):
        found = [end - len(s) for s in stop if text[:end].endswith(s)]
        if found:
            return min(found)
    return None


def byte_tokens(text: str) -> list[int]:
    return list(text.encode())


class Words:
    """A `Text` of byte tokens without markers or calls: all of it is content."""

    def __init__(self, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        detokenizer = ByteDetokenizer(lambda token: bytes([token]))
        self._text = Text(detokenizer, stop, Segmenter(Markers()), min_tokens=min_tokens)

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    def push(self, token: int) -> str:
        return words(self._text.push(token))

    def finish(self) -> str:
        return words(self._text.finish(cut=True))


def words(pieces: Sequence[OutputDelta]) -> str:
    assert all(isinstance(piece, ContentDelta) for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, ContentDelta))


@given(pieces, stop_lists)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(
    pieces: list[str], stop: list[str]
) -> None:
    whole = "".join(pieces)
    expected = first_stop(whole, stop)
    text, matched = cut(pieces, stop)
    assert matched == (expected is not None)
    assert text == whole[:expected]


@given(pieces, stop_lists)
def test_no_released_text_has_to_be_taken_back(pieces: list[str], stop: list[str]) -> None:
    whole, _ = cut(pieces, stop)
    stops = StopStrings(stop)
    released = ""
    for piece in pieces:
        released += stops.push(piece)
        assert whole.startswith(released)


@given(st.text(max_size=30), stop_lists)
def test_every_character_split_over_tokens_comes_out_whole(text: str, stop: list[str]) -> None:
    stream = Words(stop)
    released = [stream.push(token) for token in text.encode()] + [stream.finish()]
    assert all("\ufffd" not in part for part in released) or "\ufffd" in text
    assert "".join(released) == text[: first_stop(text, stop)]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes) -> None:
    stream = Words()
    text = "".join(stream.push(byte) for byte in data) + stream.finish()
    assert text == data.decode(errors="replace")


def test_a_stop_string_inside_a_character_of_several_tokens_matches_when_it_is_whole() -> None:
    stream = Words(["\U0001f600"])
    released = "".join(stream.push(token) for token in byte_tokens("hi \U0001f600 there"))
    assert (released, stream.stopped) == ("hi ", True)


def test_text_that_only_begins_like_a_stop_string_is_released_at_the_end() -> None:
    stream = Words(["<end>"])
    assert "".join(stream.push(token) for token in byte_tokens("ok <en")) == "ok "
    assert stream.finish() == "<en"
    assert not stream.stopped


def test_an_incomplete_character_at_the_end_becomes_one_replacement() -> None:
    stream = Words()
    tokens = byte_tokens("a\U0001f600")[:-1]
    assert "".join(stream.push(token) for token in tokens) == "a"
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"), [(" hi", "hi"), ("  hi", " hi"), ("hi there", "hi there"), (" ", "")]
)
def test_a_chat_answer_loses_one_leading_space(text: str, expected: str) -> None:
    detokenizer = WithoutLeadingSpace(ByteDetokenizer(lambda token: bytes([token])))
    parts = [detokenizer.push(token) for token in byte_tokens(text)]
    assert "".join(parts) + detokenizer.flush() == expected


def test_stop_strings_are_not_looked_for_before_the_least_tokens() -> None:
    text = Words(["a"], min_tokens=3)
    assert "".join(map(text.push, byte_tokens("abab"))) == "abab"
    assert not text.stopped
    assert text.push(ord("a")) == ""
    assert text.stopped
