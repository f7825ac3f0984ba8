from __future__ import annotations

import platform
from pathlib import Path

import pytest

from protocol.stats import Device
from protocol.units import GIB
from protocol.wiring import WiredLimit
from service.config.api_keys import make_key, write_keys
from service.config.settings import Settings
from service.config.sources import Configuration
from service.host.diagnosis import (
    Finding,
    address_of,
    check_access,
    check_port,
    check_settings,
    foresee_wiring,
)


def problems(settings: Settings) -> list[Finding]:
    findings = [*check_settings(Configuration(settings, {})), *check_access(settings)]
    return [finding for finding in findings if finding.is_problem]


def test_default_settings_have_no_problem() -> None:
    assert problems(Settings(keys_file="off")) == []


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
def test_settings_that_would_end_the_start_are_problems(settings: Settings, reason: str) -> None:
    [finding] = problems(settings)
    assert reason in finding.text


def test_a_keys_file_that_is_empty_or_writable_by_others_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    settings = Settings(keys_file=str(path))
    write_keys(path, [make_key("laptop")[1]])
    assert problems(settings) == []
    write_keys(path, [])
    assert "every request is refused" in problems(settings)[0].text
    write_keys(path, [make_key("laptop")[1]])
    path.chmod(0o666)
    assert "other users may write" in problems(settings)[0].text


@pytest.mark.parametrize(
    ("setting", "recommended_gib", "text"),
    [
        (0, 48, "nothing (wired_limit_bytes = 0)"),
        ("auto", 48, "30.0 GiB: the weights (30.0 GiB) are 62% of the recommended working set"),
        ("auto", 64, "nothing: the weights (30.0 GiB) are 47% of the recommended working set"),
        ("auto", 0, "nothing: only Metal has a wired limit"),
        (GIB, 48, "up to 1.0 GiB (wired_limit_bytes)"),
        (GIB, 0, "nothing: only Metal has a wired limit"),
    ],
)
def test_what_would_be_wired_is_foreseen(
    monkeypatch: pytest.MonkeyPatch, setting: WiredLimit, recommended_gib: int, text: str
) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("26.0", ("", "", ""), "arm64"))
    device = Device("Apple M4 Max", "Metal", 64 * GIB, recommended_gib * GIB)
    settings = Settings(wired_limit_bytes=setting)
    assert foresee_wiring(settings, device, 30 * GIB).startswith(text)


def test_a_host_that_is_no_host_name_is_a_finding() -> None:
    host = "a" * 80
    [finding] = check_port(Settings(host=host))
    assert finding.is_problem
    assert host in finding.text
    assert address_of(host) == host
