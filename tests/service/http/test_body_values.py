"""What a large body will take is found before it is decoded."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.http.body_values import (
    MAX_VALUES,
    PARENT_VALUES,
    PART_BYTES,
    count_values,
    estimate_decoded_bytes,
)

# A wide text's header is larger than an empty one's.
TEXT_OVERHEAD_BYTES = 32
# Texts that look like something else when their quotes or escapes are misread.
TEXTS = st.one_of(st.text('\\",:[]{}a', max_size=8), st.text(max_size=4))
DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
)


def values_of(document: Any) -> int:
    """The count, by the decoded document."""
    match document:
        case str():
            return 1
        case list():
            commas = max(0, len(document) - 1)
            return PARENT_VALUES + commas + sum(map(values_of, document))
        case dict():
            keys_and_commas = len(document) + max(0, len(document) - 1)
            fields = PARENT_VALUES * (1 + len(document))
            return fields + keys_and_commas + sum(map(values_of, document.values()))
        case _:
            return 0


@given(DOCUMENTS, st.booleans(), st.integers(0, 3))
def test_values_are_those_of_the_document_and_not_of_its_texts(
    document: Any, escaped: bool, space: int
) -> None:
    body = json.dumps(document, ensure_ascii=escaped, indent=space).encode()
    assert count_values(body) == values_of(document)
    assert count_values(bytearray(body)) == values_of(document)


@pytest.mark.parametrize("backslashes", range(5))
@pytest.mark.parametrize("padding", range(6))
def test_a_body_may_be_parted_anywhere(backslashes: int, padding: int) -> None:
    text = "x" * (PART_BYTES - padding) + "\\" * backslashes + '",[' + "y" * PART_BYTES
    document = [text, [1, 2], {"a": text}]
    assert count_values(json.dumps(document).encode()) == values_of(document)


@pytest.mark.parametrize(
    "value",
    [b"[]", b"{}", b"[", b'"a"', b"1", b'"a":1', b'{"a":"b"}'],
)
def test_a_body_of_too_many_values_is_refused(value: bytes) -> None:
    body = b",".join([value] * (MAX_VALUES + 2))
    with pytest.raises(InvalidRequest, match="values"):
        estimate_decoded_bytes(body)


def test_a_text_may_have_any_signs() -> None:
    body = msgspec.json.encode(["[{,:" * MAX_VALUES, '"[,' * MAX_VALUES])
    assert count_values(body) == values_of(["", ""])


@pytest.mark.parametrize("padding", range(6))
@pytest.mark.parametrize("wide", ["—", "🐳", "\\u2014", "\\ud83d\\udc33"])
def test_the_estimate_finds_a_wide_character_wherever_the_body_is_parted(
    wide: str, padding: int
) -> None:
    body = b"x" * (PART_BYTES - padding) + wide.encode() + b"x" * PART_BYTES
    is_pair = wide in ("🐳", "\\ud83d\\udc33")
    assert estimate_decoded_bytes(body) == len(body) * (4 if is_pair else 2)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40)), st.booleans())
def test_the_estimate_is_at_least_what_the_texts_take(texts: list[str], escaped: bool) -> None:
    body = json.dumps(texts, ensure_ascii=escaped).encode()
    characters = sum(sys.getsizeof(text) - sys.getsizeof("") for text in texts)
    assert estimate_decoded_bytes(body) + TEXT_OVERHEAD_BYTES * (len(texts) + 1) >= characters


def test_the_estimate_counts_numbers_and_wide_characters() -> None:
    assert estimate_decoded_bytes(b"x" * 1000) == 1000
    assert estimate_decoded_bytes(("x" * 1000 + "é").encode()) == 1002
    assert estimate_decoded_bytes(("x" * 1000 + "—").encode()) == 2 * 1003
    assert estimate_decoded_bytes(("x" * 1000 + "🐳").encode()) == 4 * 1004
    numbers = json.dumps(list(range(1000, 3000))).encode()
    assert estimate_decoded_bytes(numbers) > sum(map(sys.getsizeof, range(1000, 3000)))
