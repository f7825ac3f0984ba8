from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from service.config.api_keys import make_key, parse_keys, write_keys
from service.config.scalars import SettingsError
from service.security.keyring import REFRESH_INTERVAL_S, KeyRing

ENVIRONMENT_KEYS = parse_keys("from-the-environment", "test")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self) -> None:
        self.seconds += REFRESH_INTERVAL_S


def test_without_keys_none_are_required() -> None:
    assert not KeyRing().required
    assert not KeyRing((), Path("/nowhere/keys.json")).required
    assert KeyRing(ENVIRONMENT_KEYS).required


def test_keys_of_both_sources_are_found_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, key = make_key("laptop")
    write_keys(path, [key])
    ring = KeyRing(ENVIRONMENT_KEYS, path)
    assert ring.find(text.encode()) == key
    assert ring.find(b"from-the-environment") == ENVIRONMENT_KEYS[0]
    assert [ring.find(other) for other in (b"", text.upper().encode(), b"\xff" * 9)] == [None] * 3


@pytest.mark.parametrize("index", [0, 49, 99, None])
def test_the_same_comparisons_are_made_whichever_key_matches(
    index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [make_key(f"key-{number}") for number in range(100)]
    ring = KeyRing([key for _, key in pairs])
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def count_and_compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count_and_compare)
    presented, expected = (b"unknown", None) if index is None else pairs[index]
    text = presented if isinstance(presented, bytes) else presented.encode()
    assert ring.find(text) == expected
    assert compared == [(32, 32)] * 100


def test_the_same_name_in_both_sources_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, [make_key(ENVIRONMENT_KEYS[0].name)[1]])
    with pytest.raises(SettingsError, match="two keys have the name key-1"):
        KeyRing(ENVIRONMENT_KEYS, path)


def test_a_file_that_is_created_later_makes_keys_required(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    ring = KeyRing((), path, now=clock)
    text, key = make_key("laptop")
    write_keys(path, [key])
    required = []
    for _ in range(2):
        ring.refresh()
        required.append(ring.required)
        clock.advance()
    assert required == [False, True]
    assert ring.find(text.encode()) == key


def test_while_the_file_is_invalid_or_missing_the_last_keys_stay_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    text, key = make_key("laptop")
    write_keys(path, [key])
    ring = KeyRing((), path, now=clock)

    def corrupt() -> None:
        path.write_text("{")

    for damage in (corrupt, path.unlink):
        damage()
        for _ in range(3):
            clock.advance()
            ring.refresh()
            assert ring.required
            assert ring.find(text.encode()) == key
    # Each damage is logged once, not at every refresh.
    assert len(caplog.records) == 2
    write_keys(path, [])
    clock.advance()
    ring.refresh()
    assert ring.required
    assert ring.find(text.encode()) is None
