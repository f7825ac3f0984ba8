from __future__ import annotations

from pathlib import Path

import pytest

from service.config.api_keys import make_key, write_keys
from service.config.settings import Settings
from service.config.sources import Configuration
from service.host.diagnosis import Finding, check_access, check_settings


def wrong(settings: Settings) -> list[Finding]:
    found = [*check_settings(Configuration(settings, {})), *check_access(settings)]
    return [finding for finding in found if finding.wrong]


def test_the_settings_as_they_are_by_default_are_fine() -> None:
    assert wrong(Settings(keys_file="off")) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(keys_file="off", host="0.0.0.0"), "no API key is configured"),
        (Settings(keys_file="off", tls_cert="/nowhere/c.pem"), "one is set without the other"),
        (Settings(keys_file="/nowhere/keys.json"), "there is no such file"),
        (Settings(keys_file="off", allowed_origins="x"), "is not an origin"),
        (Settings(keys_file="off", allowed_hosts="x:1"), "is not a host"),
        (Settings(keys_file="off", log_file="/nowhere/mlxd.log"), "there is no folder /nowhere"),
    ],
)
def test_settings_that_would_end_the_start_are_wrong(settings: Settings, reason: str) -> None:
    [finding] = wrong(settings)
    assert reason in finding.told


def test_a_list_of_keys_that_is_empty_or_that_others_may_change_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    settings = Settings(keys_file=str(path))
    write_keys(path, [make_key("laptop")[1]])
    assert wrong(settings) == []
    write_keys(path, [])
    assert "every request is refused" in wrong(settings)[0].told
    write_keys(path, [make_key("laptop")[1]])
    path.chmod(0o666)
    assert "others may write" in wrong(settings)[0].told
