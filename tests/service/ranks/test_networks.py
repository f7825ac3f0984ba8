"""Which addresses ranks may have: token ids and tensors travel in clear."""

from __future__ import annotations

import pytest

from service.ranks.networks import AddressRefused, Network, choose_address, resolve_name

PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.9",
    "169.254.7.7",
    "127.0.0.1",
    "::1",
    "fd00::1",
    "fe80::1%1",
    "::ffff:10.0.0.1",
]
SHARED = ["100.64.0.1", "100.127.255.254", "::ffff:100.64.0.1"]
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.2.1", "2001:4860::8888"]
NEVER = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"]


def choose(network: Network, *addresses: str, name: str | None = None) -> str:
    """The address of a name that resolves to these."""
    return choose_address(name or addresses[0], network, lambda _: list(addresses))


@pytest.mark.parametrize("network", ["private", "shared", "public"])
@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_allowed(address: str, network: Network) -> None:
    assert choose(network, address) == address


@pytest.mark.parametrize("address", SHARED)
def test_a_shared_address_is_allowed_if_a_setting_says_so(address: str) -> None:
    with pytest.raises(AddressRefused, match=r"100\.64\.0\.0/10.*--ranks-network shared"):
        choose("private", address)
    assert choose("shared", address) == choose("public", address) == address


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed_if_a_setting_says_so(address: str) -> None:
    for network in ("private", "shared"):
        with pytest.raises(AddressRefused, match=r"is public.*--ranks-network public"):
            choose(network, address)
    assert choose("public", address) == address


@pytest.mark.parametrize("address", NEVER)
def test_what_is_no_address_of_a_host_is_never_allowed(address: str) -> None:
    with pytest.raises(AddressRefused, match="not the address of one host"):
        choose("public", address)


def test_a_name_is_judged_by_all_that_it_resolves_to() -> None:
    with pytest.raises(AddressRefused, match=r"mac2 is 8\.8\.8\.8, and this is public"):
        choose("private", "10.0.0.2", "8.8.8.8", name="mac2")
    # What is used is the address that was judged: a name may resolve otherwise the next time.
    assert choose("private", "fd00::2", "10.0.0.2", name="mac2") == "10.0.0.2"


def test_a_name_that_cannot_be_resolved_is_refused() -> None:
    def fail(name: str) -> list[str]:
        raise OSError(1, "no such name")

    with pytest.raises(AddressRefused, match="mac2 cannot be resolved: no such name"):
        choose_address("mac2", "public", fail)
    with pytest.raises(AddressRefused, match="cannot be resolved"):
        choose_address("a." * 200, "public")


def test_names_are_resolved_by_the_system() -> None:
    assert resolve_name("127.0.0.1") == ["127.0.0.1"]
