"""Characters are released whole, and no part of a stop string is ever released."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.call_readers.deltas import ContentDelta, OutputDelta
from worker.outputs.detokenizer import ByteDetokenizer, LeadingSpaceStripper
from worker.outputs.stop_strings import StopStrings
from worker.outputs.text import Text
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.markers import Markers

delta_lists = st.lists(st.text("ab\u00e9\U0001f600", max_size=4), max_size=12)
stop_lists = st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=6), max_size=64)


def apply_stops(deltas: Sequence[str], stop: Sequence[str]) -> tuple[str, bool]:
    """The text released of these deltas, and whether a stop string was found."""
    stops = StopStrings(stop)
    text = "".join(stops.push(delta) for delta in deltas)
    matched = stops.matched
    return text + stops.flush(), matched


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string starts that is completed first, by a search character by character."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return min(starts)
    return None


def found_stop(text: str, stop: Sequence[str]) -> str | None:
    """The stop string that is completed first; the longer one of two that end together."""
    for end in range(len(text) + 1):
        if found := [s for s in stop if text[:end].endswith(s)]:
            return max(found, key=len)
    return None


def byte_tokens(text: str) -> list[int]:
    return list(text.encode())


class PlainText:
    """A `Text` of byte tokens without markers or calls: everything is content."""

    def __init__(self, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        detokenizer = ByteDetokenizer(lambda token: bytes([token]))
        self._text = Text(detokenizer, stop, Segmenter(Markers()), min_tokens=min_tokens)

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    @property
    def stopped_by(self) -> str | None:
        return self._text.stopped_by

    def push(self, token: int) -> str:
        return content_of(self._text.push(token))

    def finish(self) -> str:
        return content_of(self._text.finish(truncated=True))


def content_of(deltas: Sequence[OutputDelta]) -> str:
    assert all(isinstance(delta, ContentDelta) for delta in deltas)
    return "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))


@given(delta_lists, stop_lists)
def test_text_ends_before_the_first_stop_string_for_any_division_into_deltas(
    deltas: list[str], stop: list[str]
) -> None:
    whole = "".join(deltas)
    expected = first_stop(whole, stop)
    text, matched = apply_stops(deltas, stop)
    assert matched == (expected is not None)
    assert text == whole[:expected]


@given(st.text("ab\u00e9\U0001f600", max_size=30), stop_lists)
def test_the_stop_string_that_is_completed_first_is_told(text: str, stop: list[str]) -> None:
    plain = PlainText(stop)
    for token in byte_tokens(text):
        plain.push(token)
        if plain.stopped:
            break
    plain.finish()
    assert plain.stopped_by == found_stop(text, stop)


@given(delta_lists, stop_lists)
def test_released_text_is_always_a_prefix_of_the_final_text(
    deltas: list[str], stop: list[str]
) -> None:
    whole, _ = apply_stops(deltas, stop)
    stops = StopStrings(stop)
    released = ""
    for delta in deltas:
        released += stops.push(delta)
        assert whole.startswith(released)


@given(st.text(max_size=30), stop_lists)
def test_a_character_split_over_tokens_is_released_whole(text: str, stop: list[str]) -> None:
    stream = PlainText(stop)
    released = [stream.push(token) for token in text.encode()] + [stream.finish()]
    assert all("\ufffd" not in part for part in released) or "\ufffd" in text
    assert "".join(released) == text[: first_stop(text, stop)]


@given(st.binary(max_size=40))
def test_bytes_that_are_not_utf_8_become_replacement_characters(data: bytes) -> None:
    stream = PlainText()
    text = "".join(stream.push(byte) for byte in data) + stream.finish()
    assert text == data.decode(errors="replace")


def test_a_stop_string_of_one_character_in_several_tokens_matches_once_it_is_complete() -> None:
    stream = PlainText(["\U0001f600"])
    released = "".join(stream.push(token) for token in byte_tokens("hi \U0001f600 there"))
    assert (released, stream.stopped) == ("hi ", True)


def test_the_beginning_of_a_stop_string_is_released_at_the_end() -> None:
    stream = PlainText(["<end>"])
    assert "".join(stream.push(token) for token in byte_tokens("ok <en")) == "ok "
    assert stream.finish() == "<en"
    assert not stream.stopped


def test_an_incomplete_character_at_the_end_becomes_one_replacement() -> None:
    stream = PlainText()
    tokens = byte_tokens("a\U0001f600")[:-1]
    assert "".join(stream.push(token) for token in tokens) == "a"
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"), [(" hi", "hi"), ("  hi", " hi"), ("hi there", "hi there"), (" ", "")]
)
def test_a_chat_answer_loses_one_leading_space(text: str, expected: str) -> None:
    detokenizer = LeadingSpaceStripper(ByteDetokenizer(lambda token: bytes([token])))
    parts = [detokenizer.push(token) for token in byte_tokens(text)]
    assert "".join(parts) + detokenizer.flush() == expected


def test_stop_strings_are_ignored_in_the_first_min_tokens() -> None:
    text = PlainText(["a"], min_tokens=3)
    assert "".join(map(text.push, byte_tokens("abab"))) == "abab"
    assert not text.stopped
    assert text.push(ord("a")) == ""
    assert text.stopped
