"""What mlxd needs of macOS: launchd, power assertions, and a kernel that does not panic."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from protocol.selftest import Figure, Verdict
from service.config.scalars import SettingsError
from service.host.agent_job import make_job
from service.host.launchd import render
from service.host.sleep_prevention import caffeinate
from service.selftest.machine import PMSET, Run, run_command

PANICS = Path("/Library/Logs/DiagnosticReports")
PANIC_DAYS = 30
S_PER_DAY = 86400.0
GPU_WORD = b"IOGPU"
NOT_MACOS = "not macOS"
PLUTIL, LAUNCHCTL = "/usr/bin/plutil", "/bin/launchctl"
ASSERTION_S, POLL_S = 2.0, 0.1


def check_system(
    environ: Mapping[str, str],
    run: Run = run_command,
    *,
    on_macos: bool | None = None,
    panics: Path = PANICS,
    prevent_sleep: Callable[[int], tuple[str, ...]] = caffeinate,
) -> Iterator[Figure]:
    """The figures of the section `system`."""
    if not (sys.platform == "darwin" if on_macos is None else on_macos):
        for name in ("panics", "gpu_panics", "plist", "launchd", "assertion"):
            yield make_figure(name, "skipped", note=NOT_MACOS)
        return
    yield from count_panics(panics, time.time())
    yield check_plist(environ, run)
    reached = run(LAUNCHCTL, "print", f"gui/{os.getuid()}") is not None
    yield make_figure(
        "launchd",
        "ok" if reached else "failed",
        value=reached,
        note="" if reached else "launchctl cannot reach this user's session: no one is logged in",
    )
    yield check_assertion(run, prevent_sleep)


def count_panics(folder: Path, now_s: float) -> Iterator[Figure]:
    """How often the kernel has panicked, and how often in the GPU's driver."""
    since = now_s - PANIC_DAYS * S_PER_DAY
    try:
        paths = [path for path in folder.iterdir() if path.suffix == ".panic"]
        texts = [path.read_bytes() for path in paths if path.stat().st_mtime >= since]
    except OSError:
        note = "the reports cannot be read by this user"
        yield make_figure("panics", "skipped", note=note)
        yield make_figure("gpu_panics", "skipped", note=note)
        return
    gpu = sum(GPU_WORD in text for text in texts)
    yield make_figure("panics", "ok" if not texts else "", value=len(texts))
    note = "the GPU's driver has panicked: see wired_limit_bytes" if gpu else ""
    yield make_figure("gpu_panics", "failed" if gpu else "ok", value=gpu, note=note)


def check_plist(environ: Mapping[str, str], run: Run) -> Figure:
    """Whether macOS can read the property list that `mlxd agent install` would write."""
    try:
        job = make_job([], environ, Path.home(), lambda message: None)
    except SettingsError as error:
        return make_figure("plist", "failed", note=str(error))
    with tempfile.NamedTemporaryFile(suffix=".plist") as file:
        file.write(render(job))
        file.flush()
        is_valid = run(PLUTIL, "-lint", file.name) is not None
    return make_figure("plist", "ok" if is_valid else "failed", value=is_valid)


def check_assertion(run: Run, prevent_sleep: Callable[[int], tuple[str, ...]]) -> Figure:
    """Whether macOS lists the power assertion of the command that keeps a Mac awake."""
    try:
        process = subprocess.Popen(prevent_sleep(os.getpid()), stdin=subprocess.DEVNULL)
    except OSError as error:
        note = f"the command cannot be run: {error.strerror}"
        return make_figure("assertion", "failed", value=False, note=note)
    try:
        is_listed = wait_listed(process.pid, run)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
    return make_figure("assertion", "ok" if is_listed else "failed", value=is_listed)


def wait_listed(pid: int, run: Run) -> bool:
    """Whether the assertions name the process, at once or a little later."""
    end = time.monotonic() + ASSERTION_S
    while True:
        if f"pid {pid}(" in (run(PMSET, "-g", "assertions") or ""):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)


def make_figure(
    name: str, verdict: Verdict, *, value: bool | int | None = None, note: str = ""
) -> Figure:
    """One figure."""
    return Figure(section="system", name=name, value=value, verdict=verdict, note=note)
