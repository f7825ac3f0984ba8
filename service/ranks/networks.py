"""Which networks ranks may use: plans and tensors travel in clear."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Literal

Network = Literal["private", "shared", "public"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "127.0.0.0/8",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
# Of a carrier's customers, who are strangers to each other (RFC 6598). Tailscale uses it, too.
SHARED = ipaddress.ip_network("100.64.0.0/10")
BROADCAST = ipaddress.ip_address("255.255.255.255")

Resolve = Callable[[str], list[str]]


class AddressRefused(ValueError):
    """An address that ranks may not use; the message says why."""


def resolve_name(name: str) -> list[str]:
    """The addresses of a name or of a numeric address, without duplicates.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def choose_address(name: str, network: Network, resolve: Resolve = resolve_name) -> str:
    """The numeric address of `name`, an IPv4 one if it has one; all of them must be allowed.

    Raises:
        AddressRefused: it cannot be resolved, or ranks may not use what it resolves to.
    """
    try:
        addresses = resolve(name)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AddressRefused(f"{name} cannot be resolved: {reason}") from None
    for address in addresses:
        if (reason := why_refused(ipaddress.ip_address(address), network)) is not None:
            shown = address if address == name else f"{name} is {address}, and this"
            raise AddressRefused(f"{shown} {reason}")
    return next((address for address in addresses if "." in address), addresses[0])


def why_refused(address: Address, network: Network) -> str | None:
    """Why ranks may not use this address; None if they may."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified or address.is_multicast or address == BROADCAST:
        return "is not the address of one host"
    if any(address in private for private in PRIVATE) or network == "public":
        return None
    clear = "token ids and tensors travel in clear"
    if address in SHARED:
        if network == "shared":
            return None
        return (
            f"is in 100.64.0.0/10, which a carrier's customers share (Tailscale uses it, too); "
            f"{clear}: --ranks-network shared allows it"
        )
    return f"is public, and {clear}: --ranks-network public allows it"
