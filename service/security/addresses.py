"""Network addresses: numeric ones, those of the loopback interface, and URLs without encryption."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(address: str) -> bool:
    """Whether `address` is a numeric loopback address, IPv4 or IPv6, of IPv6 also with its zone.

    Python before 3.13 does not count `::ffff:127.0.0.1` as one, so it is checked here.
    """
    try:
        # It knows the zones of IPv6, and refuses a `%` in an IPv4 address.
        parsed = ipaddress.ip_address(address)
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


def is_sent_openly(url: str) -> bool:
    """Whether a request to `url` leaves this machine unencrypted: its keys can be read.

    Raises:
        ValueError: the URL is invalid.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    return parts.scheme == "http" and not (host == "localhost" or is_loopback(host))
