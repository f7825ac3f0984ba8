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
def test_any_header_is_judged_and_only_a_known_name_is_ours(header: str) -> None:
    if LOOPBACK(header):
        name = host_name(header)
        assert name is not None
        assert name == "localhost" or name.startswith(("127.", "[::1", "[0"))


@given(st.sampled_from(["localhost", "127.0.0.1", "[::1]", socket.gethostname()]), names)
def test_nothing_that_follows_our_name_makes_another_one_ours(own: str, name: str) -> None:
    for rule in (LOOPBACK, NETWORK):
        assert not rule(f"{own}.{name}.example")
        assert not rule(f"{own}@{name}.example")
        assert not rule(f"{own}:1@{name}.example")


@pytest.mark.parametrize("header", ["192.168.1.7", "192.168.1.7:80", "[fe80::1]:80", "0.0.0.0"])
def test_an_address_is_ours_only_where_the_network_is_served(header: str) -> None:
    assert NETWORK(header)
    assert not LOOPBACK(header)


def test_the_machines_own_name_is_ours_on_its_network() -> None:
    assert NETWORK(socket.gethostname())
    assert NETWORK(f"{socket.gethostname()}.local:8000".upper())


def test_any_name_is_ours_where_that_is_said() -> None:
    assert make_host_rule("127.0.0.1", frozenset({"*"}))("evil.example")
