"""What macOS says of the machine becomes figures, by recorded outputs of its commands."""

from __future__ import annotations

import pytest

from protocol.selftest import Figure, is_listed
from service.selftest.machine import describe_machine

OUTPUTS = {
    # By the manual pages of sysctl and pmset, and outputs in reports of others.
    "/usr/sbin/sysctl -n kern.osversion": "25C56\n",
    "/usr/sbin/sysctl -n hw.model": "Mac16,8\n",
    "/usr/sbin/sysctl -n machdep.cpu.brand_string": "Apple M4 Pro\n",
    "/usr/sbin/sysctl -n iogpu.wired_limit_mb": "0\n",
    "/usr/sbin/sysctl -n kern.boottime": "{ sec = 1700000000, usec = 4711 } Tue Nov 14 2023\n",
    "/usr/bin/pmset -g": (
        "System-wide power settings:\nCurrently in use:\n standby              1\n"
        " powernap             1\n lowpowermode         1\n sleep                1\n"
    ),
    "/usr/bin/pmset -g therm": "Note: No thermal warning level has been recorded\n"
    "\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 8\n\tCPU_Speed_Limit \t= 80\n",
}


def describe(outputs: dict[str, str], *, on_macos: bool) -> dict[str, Figure]:
    figures = list(describe_machine(lambda *words: outputs.get(" ".join(words)), on_macos=on_macos))
    assert [figure for figure in figures if not is_listed(figure)] == []
    names = [figure.name for figure in figures]
    assert len(names) == len(set(names))
    return {figure.name: figure for figure in figures}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("build", "25C56"),
        ("mac_model", "Mac16,8"),
        ("chip", "Apple M4 Pro"),
        ("wired_limit_mib", 0),
        ("low_power_mode", True),
        ("thermal_limit", 80),
        ("rosetta", False),
    ],
)
def test_a_mac_is_described_by_its_commands(name: str, value: object) -> None:
    assert describe(OUTPUTS, on_macos=True)[name].value == value


def test_the_time_since_the_start_is_in_hours() -> None:
    hours = describe(OUTPUTS, on_macos=True)["uptime_hours"].value
    assert isinstance(hours, float)
    assert hours > 0


def test_what_a_mac_does_not_say_is_skipped() -> None:
    figures = describe({}, on_macos=True)
    skipped = {name for name, figure in figures.items() if figure.verdict == "skipped"}
    assert {"build", "chip", "uptime_hours", "low_power_mode"} <= skipped
    assert figures["thermal_limit"].value == 100


def test_this_machine_is_described() -> None:
    figures = describe({}, on_macos=False)
    for name in ("mlxd", "python", "system", "kernel", "cores", "memory_gib", "load"):
        assert figures[name].value is not None
