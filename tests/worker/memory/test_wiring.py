"""Weights are wired only where it is asked for, once, and near Metal's limit; and it is told."""

from __future__ import annotations

import pytest

from protocol.wiring import WiredLimit, Wiring, describe_wiring
from tests.fakes.metal import DEVICES, GIB, fake_metal
from worker.memory.wiring import apply_wired_limit, check_wired_limit


@pytest.mark.parametrize("name", DEVICES)
def test_by_default_nothing_is_wired_and_no_limit_is_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    metal = fake_metal(monkeypatch, name)
    assert apply_wired_limit(0, metal.recommended_bytes) is None
    assert metal.calls == []


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(("share", "wires"), [(0.1, False), (0.59, False), (0.61, True), (1, True)])
def test_auto_wires_the_weights_alone_where_they_are_near_the_limit(
    monkeypatch: pytest.MonkeyPatch, name: str, share: float, wires: bool
) -> None:
    metal = fake_metal(monkeypatch, name)
    weight_bytes = int(share * metal.recommended_bytes)
    wiring = apply_wired_limit("auto", weight_bytes)
    assert wiring is not None
    assert wiring.limit_bytes == (weight_bytes if wires else 0)
    assert metal.calls == ([("set_wired_limit", weight_bytes)] if wires else [])
    assert "of the recommended working set" in wiring.reason


def test_weights_above_the_recommended_working_set_are_wired_up_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metal = fake_metal(monkeypatch, "M4 Pro")
    wiring = apply_wired_limit("auto", metal.recommended_bytes + GIB)
    assert wiring is not None
    assert metal.calls == [("set_wired_limit", metal.recommended_bytes)]
    assert describe_wiring(wiring).startswith("36.0 GiB: the weights (37.0 GiB) are 103% of")


@pytest.mark.parametrize("macos", ["14.7.1", "14.0"])
def test_auto_wires_nothing_before_macos_15(monkeypatch: pytest.MonkeyPatch, macos: str) -> None:
    metal = fake_metal(monkeypatch, "M1", macos)
    wiring = apply_wired_limit("auto", metal.recommended_bytes)
    assert wiring is not None
    assert (wiring.limit_bytes, metal.calls) == (0, [])
    assert f"macOS {macos}" in describe_wiring(wiring)


@pytest.mark.parametrize("limit", ["auto", GIB])
def test_without_metal_nothing_is_wired_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, limit: WiredLimit
) -> None:
    monkeypatch.setattr("worker.memory.wiring.recommended_working_set", lambda: 0)
    assert apply_wired_limit(limit, GIB) == Wiring(0, "only Metal has a wired limit")


def test_a_limit_in_bytes_is_set_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = fake_metal(monkeypatch, "M2 Max")
    assert apply_wired_limit(7 * GIB, 0) == Wiring(7 * GIB, "wired_limit_bytes")
    assert metal.calls == [("set_wired_limit", 7 * GIB)]


def test_a_limit_that_metal_would_refuse_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metal = fake_metal(monkeypatch, "M1")
    check_wired_limit("auto")
    check_wired_limit(metal.recommended_bytes)
    with pytest.raises(ValueError, match="wired_limit_bytes 17179869184 is more than the 1145"):
        check_wired_limit(16 * GIB)
