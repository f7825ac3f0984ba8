from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.security.origins import host_name, make_host_rule

LOOPBACK = make_host_rule("127.0.0.1", frozenset())
NETWORK = make_host_rule("0.0.0.0", frozenset())
names = st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True)


@given(st.text())
def test_any_header_is_parsed_and_only_a_loopback_name_is_accepted(header: str) -> None:
    if LOOPBACK(header):
        name = host_name(header)
        assert name is not None
        assert name == "localhost" or name.startswith(("127.", "[::1", "[0"))


@given(st.sampled_from(["localhost", "127.0.0.1", "[::1]", socket.gethostname()]), names)
def test_a_foreign_name_that_begins_with_an_own_name_is_refused(own: str, name: str) -> None:
    for rule in (LOOPBACK, NETWORK):
        assert not rule(f"{own}.{name}.example")
        assert not rule(f"{own}@{name}.example")
        assert not rule(f"{own}:1@{name}.example")


@pytest.mark.parametrize("header", ["127.0.0.1%x", "127.0.0.1%25x:80", "127.0.0.1\\x", "[::1%x]"])
def test_an_address_with_more_behind_it_is_refused(header: str) -> None:
    assert not LOOPBACK(header)
    assert not NETWORK(header)


@pytest.mark.parametrize("header", ["192.168.1.7", "192.168.1.7:80", "[fe80::1]:80", "0.0.0.0"])
def test_a_network_address_is_accepted_only_when_listening_on_the_network(header: str) -> None:
    assert NETWORK(header)
    assert not LOOPBACK(header)


def test_the_machines_own_name_is_accepted_when_listening_on_the_network() -> None:
    assert NETWORK(socket.gethostname())
    assert NETWORK(f"{socket.gethostname()}.local:8000".upper())


def test_a_wildcard_accepts_any_name() -> None:
    assert make_host_rule("127.0.0.1", frozenset({"*"}))("evil.example")
