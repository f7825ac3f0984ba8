"""Numeric network addresses: recognising them, and those of the loopback interface."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether `address` is a numeric loopback address, IPv4 or IPv6.

    Python before 3.13 does not count `::ffff:127.0.0.1` as one, so it is checked here.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def is_address(text: str) -> bool:
    """Whether `text` is a numeric address and not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
