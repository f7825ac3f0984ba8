"""The input of a custom tool, read from arguments that arrive in parts."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.responses.output.custom_input import CustomInputReader


@given(st.text(), st.booleans(), st.data())
def test_the_parts_join_to_the_text_wherever_they_are_cut(
    text: str, is_ascii: bool, data: st.DataObject
) -> None:
    text = text.encode("utf-16", "replace").decode("utf-16")
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    places = data.draw(st.lists(st.integers(0, len(arguments))))
    cuts = [0, *sorted(places), len(arguments)]
    reader = CustomInputReader()
    parts = [reader.feed(arguments[begin:end]) for begin, end in itertools.pairwise(cuts)]
    assert "".join(parts) == text
    assert reader.text == text


@given(st.text(alphabet='ab"\\u0d8{}:,é\n'))
def test_any_arguments_are_read_without_a_failure(tail: str) -> None:
    reader = CustomInputReader()
    parts = [reader.feed(char) for char in '{"input": "' + tail]
    assert "".join(parts) == reader.text
    assert not any("\ud800" <= char <= "\udfff" for char in reader.text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"other": 1}', '{"other": 1}'),
        ('{"input": 7}', '{"input": 7}'),
        ("[1]", "[1]"),
        ("no JSON", "no JSON"),
        ("", ""),
        ('{"a": 1, "input": "late"}', "late"),
        (' {\n "input" : "spaced"\n} ', "spaced"),
        ('{"input": "cut', "cut"),
        ('{"input": "cut in an escape \\u00', "cut in an escape "),
        ('{"input": "cut in a pair \\ud83d', "cut in a pair "),
        ('{"input": "a\\ud83d\\ude00b"}', "a😀b"),
        ('{"input": "twice", "input": "two"}', "twice"),
    ],
)
def test_the_input_of_odd_arguments(arguments: str, text: str) -> None:
    reader = CustomInputReader()
    reader.feed(arguments)
    assert reader.text == text


def test_half_of_a_surrogate_pair_is_no_character() -> None:
    reader = CustomInputReader()
    for part in ('{"input": "a', "\\udc00", 'b"}'):
        reader.feed(part)
    assert reader.text == "a\ufffdb"


@pytest.mark.parametrize("after", ["bc", "\\n", "\\u0041", "\\ud83d\\ude00", "\\\\u", ""])
def test_a_high_surrogate_without_its_low_one_does_not_stop_the_text(after: str) -> None:
    reader = CustomInputReader()
    for char in '{"input": "a\\ud83d' + after + '"}':
        reader.feed(char)
    assert reader.text == "a\ufffd" + json.loads(f'"{after}"')
