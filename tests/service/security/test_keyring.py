from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from service.config.api_keys import make_key, parse_keys, write_keys
from service.config.scalars import SettingsError
from service.security.keyring import LOOK_AGAIN_S, KeyRing

FIXED = parse_keys("from-the-environment", "test")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_by(self) -> None:
        self.seconds += LOOK_AGAIN_S


def test_without_keys_none_are_required() -> None:
    assert not KeyRing().required
    assert not KeyRing((), Path("/nowhere/keys.json")).required
    assert KeyRing(FIXED).required


def test_keys_of_both_sources_are_found_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, key = make_key("laptop")
    write_keys(path, [key])
    ring = KeyRing(FIXED, path)
    assert ring.find(text.encode()) == key
    assert ring.find(b"from-the-environment") == FIXED[0]
    assert [ring.find(other) for other in (b"", text.upper().encode(), b"\xff" * 9)] == [None] * 3


@pytest.mark.parametrize("place", [0, 49, 99, None])
def test_as_much_is_compared_whichever_key_it_is(
    place: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [make_key(f"key-{number}") for number in range(100)]
    ring = KeyRing([key for _, key in pairs])
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    presented, expected = (b"unknown", None) if place is None else pairs[place]
    text = presented if isinstance(presented, bytes) else presented.encode()
    assert ring.find(text) == expected
    assert compared == [(32, 32)] * 100


def test_one_name_in_both_sources_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, [make_key(FIXED[0].name)[1]])
    with pytest.raises(SettingsError, match="two keys have the name key-1"):
        KeyRing(FIXED, path)


def test_a_file_that_is_made_while_it_runs_makes_keys_required(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    ring = KeyRing((), path, now=clock)
    text, key = make_key("laptop")
    write_keys(path, [key])
    seen = []
    for _ in range(2):
        ring.refresh()
        seen.append(ring.required)
        clock.pass_by()
    assert seen == [False, True]
    assert ring.find(text.encode()) == key


def test_a_file_that_breaks_or_goes_away_opens_nothing_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    text, key = make_key("laptop")
    write_keys(path, [key])
    ring = KeyRing((), path, now=clock)

    def spoil() -> None:
        path.write_text("{")

    for harm in (spoil, path.unlink):
        harm()
        for _ in range(3):
            clock.pass_by()
            ring.refresh()
            assert ring.required
            assert ring.find(text.encode()) == key
    # Told once each, not at every look.
    assert len(caplog.records) == 2
    write_keys(path, [])
    clock.pass_by()
    ring.refresh()
    assert ring.required
    assert ring.find(text.encode()) is None
