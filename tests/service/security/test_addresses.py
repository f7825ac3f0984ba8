from __future__ import annotations

import pytest

from service.security.addresses import is_address, is_loopback, is_sent_openly


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "::1", "::1%lo0", "::ffff:127.0.0.1"]
)
def test_loopback_addresses_are_recognised(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "::",
        "192.168.1.7",
        "::ffff:192.168.1.7",
        "fe80::1%en0",
        "localhost",
        "127.1",
        "127.0.0.1%x",
        "",
    ],
)
def test_other_addresses_and_names_are_not_loopback_addresses(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("text", "numeric"),
    [("10.0.0.1", True), ("::1", True), ("2130706433", False), ("0x7f.1", False), ("a", False)],
)
def test_only_numeric_addresses_are_addresses(text: str, numeric: bool) -> None:
    assert is_address(text) is numeric


@pytest.mark.parametrize(
    ("url", "openly"),
    [
        ("http://hub.example", True),
        ("HTTP://192.0.2.1:8000/x", True),
        ("http://localhost.example", True),
        ("http://127.0.0.1@hub.example", True),
        ("https://hub.example", False),
        ("http://localhost:9", False),
        ("http://127.0.0.1", False),
        ("http://[::1]:9/x", False),
        ("", False),
    ],
)
def test_http_to_another_machine_is_sent_openly(url: str, openly: bool) -> None:
    assert is_sent_openly(url) is openly
