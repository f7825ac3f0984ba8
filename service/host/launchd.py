"""launchd on macOS: the property list of a service, and the commands that load it.

Sources: launchd.plist(5), launchctl(1). A Mac has not run this yet.
"""

from __future__ import annotations

import plistlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

LABEL = "local.mlxd"
TEMPLATE = "mlxd.plist"
# Where an installed package keeps what lies under deploy/ in the source tree.
SHARED_FOLDER = Path(sys.prefix) / "share" / "mlxd"
SOURCE_FOLDER = Path(__file__).parents[2] / "deploy"
COMMAND_TIMEOUT_S = 30.0
POLL_S = 0.2
# For a moment after a job is gone, launchd refuses to load it again (macOS 14 to 26, as many
# projects report: openclaw/openclaw issue 136453 for one).
IO_ERROR = 5
LOAD_TRIES = 5
LOAD_PAUSE_S = 1.0

Plist = dict[str, Any]


class Job(NamedTuple):
    """What launchd is to run. `user` is set for a daemon, which runs without anybody logged in."""

    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    log_folder: Path
    exit_timeout_s: int
    user: str | None = None


class CommandOutput(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    output: str


class Machine(Protocol):
    """What installing does to a machine."""

    def run(self, *words: str) -> CommandOutput:
        """Run a command."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; its folder is made."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, if they are not there."""


class LaunchdHost:
    """Does it."""

    def run(self, *words: str) -> CommandOutput:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return CommandOutput(done.returncode, done.stdout)

    def write(self, path: Path, data: bytes) -> None:
        self.make_folder(path.parent)
        path.write_bytes(data)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)


class DryRunHost:
    """Says what it would do. Nothing is loaded there."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def run(self, *words: str) -> CommandOutput:
        if words[:2] == ("launchctl", "print"):
            return CommandOutput(1, "")
        self._tell(f"run {' '.join(words)}")
        return CommandOutput(0, "")

    def write(self, path: Path, data: bytes) -> None:
        self._tell(f"write {path} ({len(data)} bytes; `mlxd agent install --print` shows them)")

    def remove(self, path: Path) -> None:
        self._tell(f"remove {path}")

    def make_folder(self, path: Path) -> None:
        self._tell(f"make the folder {path}")

    def _tell(self, step: str) -> None:
        self._output.write(f"would {step}\n")


def render(job: Job) -> bytes:
    """The property list of a job, from the template under deploy/.

    Raises:
        OSError: the template cannot be read.
    """
    folder = SOURCE_FOLDER if (SOURCE_FOLDER / TEMPLATE).exists() else SHARED_FOLDER
    plist: Plist = plistlib.loads((folder / TEMPLATE).read_bytes())
    plist |= {
        "ProgramArguments": job.arguments,
        "EnvironmentVariables": dict(sorted(job.environment.items())),
        "WorkingDirectory": str(job.folder),
        "ExitTimeOut": job.exit_timeout_s,
        "StandardOutPath": str(job.log_folder / "mlxd.out"),
        "StandardErrorPath": str(job.log_folder / "mlxd.err"),
    }
    if job.user is not None:
        plist["UserName"] = job.user
    return plistlib.dumps(plist, sort_keys=False)


class Launchd:
    """One job in the domain of one logged-in user."""

    def __init__(self, machine: Machine, user_id: int, *, sleep: Callable[[float], None]) -> None:
        self._machine = machine
        self._sleep = sleep
        self.domain = f"gui/{user_id}"
        self.target = f"{self.domain}/{LABEL}"

    def state(self) -> Mapping[str, str] | None:
        """What launchd says of the job, `state` and `pid` among it; None where it is not loaded."""
        code, output = self._machine.run("launchctl", "print", self.target)
        if code != 0:
            return None
        pairs = (line.strip().partition(" = ") for line in output.splitlines())
        found: dict[str, str] = {}
        for name, equals, value in pairs:
            if equals:
                # Of nested parts the same names may follow; the job's own come first.
                found.setdefault(name, value)
        return found

    def load(self, plist: Path) -> CommandOutput:
        """Make the job known; it starts."""
        # It may have been disabled by hand, which outlasts its removal.
        self._machine.run("launchctl", "enable", self.target)
        for _ in range(LOAD_TRIES):
            outcome = self._machine.run("launchctl", "bootstrap", self.domain, str(plist))
            if outcome.code != IO_ERROR:
                break
            self._sleep(LOAD_PAUSE_S)
        return outcome

    def unload(self, timeout_s: float) -> bool:
        """End the job and forget it; False where that took longer than `timeout_s`."""
        self._machine.run("launchctl", "bootout", self.target)
        deadline = time.monotonic() + timeout_s
        while self.state() is not None:
            if time.monotonic() > deadline:
                return False
            self._sleep(POLL_S)
        return True

    def start(self) -> CommandOutput:
        """Start a job that is loaded, if it does not run."""
        return self._machine.run("launchctl", "kickstart", self.target)

    def stop(self) -> CommandOutput:
        """Ask a running job to end (SIGTERM); it exits with 0, and so is not started again."""
        return self._machine.run("launchctl", "kill", "SIGTERM", self.target)


def tail_command(files: Sequence[Path], *, follow: bool, lines: int) -> list[str]:
    """What shows the ends of log files, and goes on with those that are replaced."""
    return ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
