"""The machine, as its system describes it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from protocol.selftest import Figure, Value
from service.supervision.available_memory import read_available

COMMAND_TIMEOUT_S = 10.0
SYSCTL, PMSET = "/usr/sbin/sysctl", "/usr/bin/pmset"
GIB = 1 << 30
S_PER_HOUR = 3600.0
BOOT_S = re.compile(r"\bsec = (\d+)")
LOW_POWER = re.compile(r"^\s*(?:lowpowermode|powermode)\s+(\d+)", re.MULTILINE)
THERMAL = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")
UPTIME, CPUINFO = Path("/proc/uptime"), Path("/proc/cpuinfo")

Run = Callable[..., str | None]
"""Runs a command; its output, None where it fails or there is none."""


def run_command(*words: str) -> str | None:
    """The output of a command; None if it cannot be run, takes too long or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        completed = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
        return completed.stdout
    return None


def describe_machine(run: Run = run_command, *, on_macos: bool | None = None) -> Iterator[Figure]:
    """The figures of the section `machine`."""
    on_macos = sys.platform == "darwin" if on_macos is None else on_macos
    yield make_figure("mlxd", version("mlxd"))
    yield make_figure("python", platform.python_version())
    yield make_figure("kernel", platform.release())
    yield make_figure("cores", os.cpu_count())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield make_figure("memory_gib", round(memory / GIB, 1), "GiB")
    if (available := read_available()) is not None:
        yield make_figure("available_gib", round(available / GIB, 1), "GiB")
    yield make_figure("load", round(os.getloadavg()[0], 1))
    yield from describe_mac(run) if on_macos else describe_other()


def describe_mac(run: Run) -> Iterator[Figure]:
    """What only macOS says, by sysctl(8) and pmset(1)."""
    yield make_figure("system", f"macOS {platform.mac_ver()[0]}")
    for name, key in (
        ("build", "kern.osversion"),
        ("mac_model", "hw.model"),
        ("chip", "machdep.cpu.brand_string"),
    ):
        yield make_figure(name, read_sysctl(run, key))
    yield make_figure("wired_limit_mib", read_number(run, "iogpu.wired_limit_mb"), "MiB")
    yield make_figure("rosetta", read_number(run, "sysctl.proc_translated") == 1)
    boot = BOOT_S.search(read_sysctl(run, "kern.boottime") or "")
    hours = round((time.time() - int(boot[1])) / S_PER_HOUR, 1) if boot else None
    yield make_figure("uptime_hours", hours, "h")
    low_power = LOW_POWER.search(run(PMSET, "-g") or "")
    yield make_figure("low_power_mode", low_power[1] == "1" if low_power else None)
    thermal = THERMAL.search(run(PMSET, "-g", "therm") or "")
    # Without a limit pmset names none.
    yield make_figure("thermal_limit", int(thermal[1]) if thermal else 100, "%")


def describe_other() -> Iterator[Figure]:
    """The same where the files of Linux say it."""
    name = platform.system()
    with contextlib.suppress(OSError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    yield make_figure("system", name)
    with contextlib.suppress(OSError, LookupError, ValueError):
        lines = CPUINFO.read_text("utf-8").splitlines()
        chip = next((line for line in lines if line.startswith("model name")), "")
        yield make_figure("chip", chip.partition(":")[2].strip() or platform.machine())
        seconds = float(UPTIME.read_text("ascii").split()[0])
        yield make_figure("uptime_hours", round(seconds / S_PER_HOUR, 1), "h")


def read_sysctl(run: Run, key: str) -> str | None:
    """The value of a key; None where the system has none."""
    output = run(SYSCTL, "-n", key)
    return output.strip() if output is not None else None


def read_number(run: Run, key: str) -> int | None:
    """A value that is a number."""
    text = read_sysctl(run, key) or ""
    return int(text) if text.isdigit() else None


def make_figure(name: str, value: Value, unit: str = "") -> Figure:
    """One figure; one without a value is skipped."""
    if value is None:
        note = "the system does not say"
        return Figure(section="machine", name=name, verdict="skipped", note=note)
    return Figure(section="machine", name=name, value=value, unit=unit)
