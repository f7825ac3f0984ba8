from __future__ import annotations

import pytest

from service.config.api_keys import parse_keys
from service.config.settings import Settings
from service.security.exposure import NETWORK, find_exposure
from service.security.keyring import KeyRing

WITHOUT_KEYS = KeyRing()
KEYS = KeyRing(parse_keys("key-of-16-characters", "test"))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7"])
def test_a_network_address_without_keys_is_refused_unless_the_settings_allow_it(
    address: str,
) -> None:
    reason = find_exposure(Settings(host="example"), WITHOUT_KEYS, address)
    assert reason is not None
    assert reason.startswith("example can be reached from other machines")
    assert find_exposure(Settings(), KEYS, address) is None
    assert find_exposure(Settings(without_keys=NETWORK), WITHOUT_KEYS, address) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_loopback_address_needs_no_keys(address: str) -> None:
    assert find_exposure(Settings(), WITHOUT_KEYS, address) is None
