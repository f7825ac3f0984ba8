"""launchd on macOS: the property list of a job, and the commands that load and stop it.

Sources: launchd.plist(5), launchctl(1). This has not been run on a Mac yet.
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
# Where an installed package has the files that are under deploy/ in the source tree.
SHARED_FOLDER = Path(sys.prefix) / "share" / "mlxd"
SOURCE_FOLDER = Path(__file__).parents[2] / "deploy"
COMMAND_TIMEOUT_S = 30.0
POLL_S = 0.2
# For a moment after a job is removed, launchd refuses to load it again (macOS 14 to 26, as many
# projects report, for example in issue 136453 of openclaw/openclaw).
IO_ERROR = 5
LOAD_TRIES = 5
LOAD_PAUSE_S = 1.0

Plist = dict[str, Any]


def plist_path(home: Path) -> Path:
    """The property list of the job in a user's home."""
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


class Job(NamedTuple):
    """A job for launchd. `user` is set for a LaunchDaemon, which runs with no user logged in."""

    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    log_folder: Path
    exit_timeout_s: int
    user: str | None = None


class CommandOutput(NamedTuple):
    """A command's exit code and output."""

    code: int
    output: str


class Machine(Protocol):
    """The operations that installing a job performs on a machine."""

    def run(self, *words: str) -> CommandOutput:
        """Run a command."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, and make its folder."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents, if they do not exist."""


class LaunchdHost:
    """This machine."""

    def run(self, *words: str) -> CommandOutput:
        completed = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return CommandOutput(completed.returncode, completed.stdout)

    def write(self, path: Path, data: bytes) -> None:
        self.make_folder(path.parent)
        path.write_bytes(data)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)


class DryRunHost:
    """Prints each operation instead of performing it. No job is ever loaded."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def run(self, *words: str) -> CommandOutput:
        if words[:2] == ("launchctl", "print"):
            return CommandOutput(1, "")
        self._print(f"run {' '.join(words)}")
        return CommandOutput(0, "")

    def write(self, path: Path, data: bytes) -> None:
        self._print(f"write {path} ({len(data)} bytes; `mlxd agent install --print` shows them)")

    def remove(self, path: Path) -> None:
        self._print(f"remove {path}")

    def make_folder(self, path: Path) -> None:
        self._print(f"make the folder {path}")

    def _print(self, operation: str) -> None:
        self._output.write(f"would {operation}\n")


def render(job: Job) -> bytes:
    """The property list of a job, made from the template under deploy/.

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
    """The job with `LABEL` in the domain of one logged-in user."""

    def __init__(self, machine: Machine, user_id: int, *, sleep: Callable[[float], None]) -> None:
        self._machine = machine
        self._sleep = sleep
        self.domain = f"gui/{user_id}"
        self.target = f"{self.domain}/{LABEL}"

    def state(self) -> Mapping[str, str] | None:
        """The job's fields, including `state` and `pid`; None if it is not loaded."""
        code, output = self._machine.run("launchctl", "print", self.target)
        if code != 0:
            return None
        pairs = (line.strip().partition(" = ") for line in output.splitlines())
        fields: dict[str, str] = {}
        for name, equals, value in pairs:
            if equals:
                # Nested sections may repeat a name; the job's own fields come first.
                fields.setdefault(name, value)
        return fields

    def load(self, plist: Path) -> CommandOutput:
        """Load the job, which starts it."""
        # A job that a user has disabled stays disabled after it is removed.
        self._machine.run("launchctl", "enable", self.target)
        for _ in range(LOAD_TRIES):
            result = self._machine.run("launchctl", "bootstrap", self.domain, str(plist))
            if result.code != IO_ERROR:
                break
            self._sleep(LOAD_PAUSE_S)
        return result

    def unload(self, timeout_s: float) -> bool:
        """Stop and remove the job; False if it is still loaded after `timeout_s`."""
        self._machine.run("launchctl", "bootout", self.target)
        deadline = time.monotonic() + timeout_s
        while self.state() is not None:
            if time.monotonic() > deadline:
                return False
            self._sleep(POLL_S)
        return True

    def start(self) -> CommandOutput:
        """Start a loaded job, if it is not running."""
        return self._machine.run("launchctl", "kickstart", self.target)

    def stop(self) -> CommandOutput:
        """Send SIGTERM to a running job. It exits with 0, so launchd does not restart it."""
        return self._machine.run("launchctl", "kill", "SIGTERM", self.target)


def tail_command(files: Sequence[Path], *, follow: bool, lines: int) -> list[str]:
    """The command that shows the last lines of log files. `follow` follows rotated files too."""
    return ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
