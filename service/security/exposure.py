"""Decides whether clients on other machines may be served without an API key."""

from __future__ import annotations

from typing import Final

from service.config.settings import Settings
from service.security.addresses import is_loopback
from service.security.keyring import KeyRing

# The value of `without_keys` that allows it.
NETWORK: Final = "anyone-on-the-network"


def find_exposure(settings: Settings, keys: KeyRing, address: str) -> str | None:
    """Why the service must not be served on `address`; None if it may be.

    Clients on other machines need an API key, unless the settings allow them to use none.
    """
    if is_loopback(address) or keys.required or settings.without_keys == NETWORK:
        return None
    return (
        f"{settings.host} can be reached from other machines, and no API key is configured: "
        f"create one with `mlxd keys add NAME`, or set --without-keys {NETWORK}"
    )
