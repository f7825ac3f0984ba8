"""Network addresses: which of them cannot be reached from another machine."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether a numeric address is this machine's own, in either family.

    Python before 3.13 does not say so of `::ffff:127.0.0.1`.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def is_address(text: str) -> bool:
    """Whether `text` is a numeric address rather than a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
