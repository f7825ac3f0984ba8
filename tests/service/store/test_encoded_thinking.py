"""Encoded thinking: what was encoded comes back, and anything else is foreign."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store import encoded_thinking
from service.store.encoded_thinking import (
    MAX_DECODED_BYTES,
    MAX_ENCODED_CHARS,
    PREFIX,
    DecodedThinking,
    EncodedThinking,
    inflate,
    to_base64,
)

KEY = bytes(range(32))
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture(scope="module")
def thinking() -> EncodedThinking:
    return EncodedThinking(lambda: KEY)


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(model=texts, text=texts)
def test_what_was_encoded_comes_back(model: str, text: str) -> None:
    thinking = EncodedThinking(lambda: KEY)
    encoded = thinking.encode(model, text)
    assert encoded.startswith(PREFIX)
    assert thinking.decode(encoded) == DecodedThinking(model, text)
    assert EncodedThinking(lambda: bytes(32)).decode(encoded) is None


@given(text=texts, data=st.data())
def test_a_changed_text_is_foreign(text: str, data: st.DataObject) -> None:
    thinking = EncodedThinking(lambda: KEY)
    encoded = thinking.encode("m", text)
    position = data.draw(st.integers(0, len(encoded) - 1))
    other = data.draw(st.sampled_from(BASE64).filter(lambda one: one != encoded[position]))
    assert thinking.decode(encoded[:position] + other + encoded[position + 1 :]) is None
    assert thinking.decode(encoded[:position]) is None
    assert thinking.decode(encoded + other) is None


@given(text=st.text())
def test_any_other_text_is_foreign(text: str) -> None:
    thinking = EncodedThinking(lambda: KEY)
    for foreign in (text, PREFIX + text, f"{PREFIX}{text}.{text}"):
        assert thinking.decode(foreign) is None


def test_a_text_is_verified_before_it_is_inflated(
    thinking: EncodedThinking, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflated: list[bytes] = []
    monkeypatch.setattr(encoded_thinking, "inflate", inflated.append)
    bomb = to_base64(zlib.compress(bytes(1 << 24)))
    assert thinking.decode(f"{PREFIX}{bomb}.{to_base64(bytes(32))}") is None
    assert inflated == []
    thinking.decode(thinking.encode("m", "t"))
    assert len(inflated) == 1


def test_content_is_inflated_within_the_bound() -> None:
    assert inflate(zlib.compress(bytes(1 << 24))) is None
    assert inflate(b"no zlib") is None
    assert inflate(zlib.compress(b"no msgpack")) is None


def test_thinking_of_256_kib_is_encoded_and_more_is_not(thinking: EncodedThinking) -> None:
    # Hardly compressible: it has as many characters as the bound allows.
    text = "".join(chr(0x10000 + (number * 7919) % 0x10000) for number in range(65_000))
    encoded = thinking.encode("m", text)
    assert len(encoded) <= MAX_ENCODED_CHARS
    assert thinking.decode(encoded) == DecodedThinking("m", text)
    assert thinking.encode("m", "x" * (MAX_DECODED_BYTES + 1)) == ""


def test_the_key_is_read_once_and_only_when_it_is_needed() -> None:
    loads: list[int] = []

    def load() -> bytes:
        loads.append(1)
        return KEY

    thinking = EncodedThinking(load)
    assert thinking.decode("a signature of another service") is None
    assert loads == []
    thinking.decode(thinking.encode("m", "t"))
    assert len(loads) == 1
