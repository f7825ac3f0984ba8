"""`mlxd agent`: the service as a LaunchAgent, started at login and kept running."""

from __future__ import annotations

import os
import plistlib
import pwd
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.config.scalars import SettingsError
from service.config.sources import Parser
from service.errors import excerpt
from service.host.agent_job import describe_job
from service.host.launchd import (
    LABEL,
    DryRunHost,
    Launchd,
    LaunchdHost,
    Machine,
    render,
    tail_command,
)
from service.server import EXIT_FAILED, EXIT_OK

ACTIONS = ("install", "uninstall", "start", "stop", "restart", "status", "logs")
SHOWN_LINES = 200
# launchd kills at ExitTimeOut; it then takes a moment to forget the job.
UNLOAD_MARGIN_S = 10.0
DEFAULT_EXIT_TIMEOUT_S = 60.0
# What init scripts return for a service that is installed and does not run.
EXIT_NOT_RUNNING = 3


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    machine: Machine | None = None,
    home: Path | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Do what was asked; the exit code. Elsewhere than on macOS it says what it would do.

    Raises:
        SettingsError: it cannot be done as asked; nothing was changed.
    """
    asked, flags = make_parser().parse_known_args(argv)
    if flags and asked.action != "install":
        raise SettingsError(f"command line: {flags[0]} is for `mlxd agent install`")
    home = home or Path.home()
    if asked.print:
        return print_plist(asked, flags, environ, home)
    if asked.daemon:
        raise SettingsError("command line: --daemon is for --print; deploy/README.md says how")
    if machine is None:
        machine = LaunchdHost() if sys.platform == "darwin" else dry_run_host()
    agent = Agent(machine, home, sleep)
    match asked.action:
        case "install":
            return agent.install(flags, environ)
        case "logs":
            return agent.logs(follow=asked.follow)
        case action:
            do: Callable[[], int] = getattr(agent, action)
            return do()


def make_parser() -> Parser:
    """What the command understands; what it does not are flags of `serve`."""
    parser = Parser(
        prog="mlxd agent",
        description="Run the service as a LaunchAgent: from login on, and again when it fails. "
        "install takes the flags of `mlxd serve` after it, and keeps them with the settings of "
        "the environment; installing again changes them.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=ACTIONS, metavar="|".join(ACTIONS))
    parser.add_argument(
        "--print", action="store_true", help="write the property list to standard output, and stop"
    )
    parser.add_argument(
        "--daemon", metavar="USER", help="print a LaunchDaemon that runs as USER with no login"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="logs: go on with new lines")
    return parser


def print_plist(
    asked: Namespace, flags: Sequence[str], environ: Mapping[str, str], home: Path
) -> int:
    """The property list alone on standard output."""
    if asked.action != "install":
        raise SettingsError("command line: --print is for `mlxd agent install`")
    job = describe_job(flags, environ, home_of(asked.daemon) if asked.daemon else home, complain)
    sys.stdout.buffer.write(render(job._replace(user=asked.daemon)))
    sys.stdout.buffer.flush()
    return EXIT_OK


def home_of(user: str) -> Path:
    """A user's home folder.

    Raises:
        SettingsError: there is no such user.
    """
    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        raise SettingsError(f"--daemon: there is no user {excerpt(user, 100)} here") from None


class Agent:
    """The LaunchAgent of one user."""

    def __init__(self, machine: Machine, home: Path, sleep: Callable[[float], None]) -> None:
        self._machine = machine
        self._home = home
        self._launchd = Launchd(machine, os.getuid(), sleep=sleep)
        self._plist = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def install(self, flags: Sequence[str], environ: Mapping[str, str]) -> int:
        """Write the property list and load it; again with the same settings it changes nothing."""
        job = describe_job(flags, environ, self._home, complain)
        wanted = render(job)
        loaded = self._launchd.state() is not None
        if loaded and self._plist.exists() and self._plist.read_bytes() == wanted:
            tell(f"{LABEL} is installed and loaded already, with these settings")
            return EXIT_OK
        if loaded and not self._unload():
            return EXIT_FAILED
        self._machine.make_folder(job.log_folder)
        self._machine.write(self._plist, wanted)
        return self._load("installed")

    def uninstall(self) -> int:
        """End the service and forget it. The logs stay."""
        if self._launchd.state() is not None and not self._unload():
            return EXIT_FAILED
        self._machine.remove(self._plist)
        return self._report((EXIT_OK, ""), "not installed now; its logs stay")

    def start(self) -> int:
        """Start the service, if it does not run."""
        if self._launchd.state() is None:
            return self._load("started") if self._installed() else EXIT_FAILED
        return self._report(self._launchd.start(), "started")

    def stop(self) -> int:
        """End the service until the next login or `start`; what runs may finish."""
        if "pid" not in (self._launchd.state() or {}):
            tell(f"{LABEL} does not run")
            return EXIT_OK
        return self._report(self._launchd.stop(), "asked to stop; what runs may finish")

    def restart(self) -> int:
        """End the service and start it as it is installed."""
        if not self._installed():
            return EXIT_FAILED
        if self._launchd.state() is not None and not self._unload():
            return EXIT_FAILED
        return self._load("restarted")

    def status(self) -> int:
        """Tell whether it is installed and runs."""
        state = self._launchd.state()
        if state is None:
            where = "installed, not loaded" if self._plist.exists() else "not installed"
            tell(f"{LABEL}: {where}")
            return EXIT_NOT_RUNNING
        for name in ("state", "pid", "last exit code", "last terminating signal"):
            if name in state:
                tell(f"{name}: {state[name]}")
        tell(f"plist: {self._plist}")
        return EXIT_OK if "pid" in state else EXIT_NOT_RUNNING

    def logs(self, *, follow: bool) -> int:
        """Show the ends of the logs; with `follow` until interrupted."""
        folder = self._home / "Library" / "Logs" / "mlxd"
        files = [folder / name for name in ("mlxd.log", "mlxd.err")]
        command = tail_command(files, follow=follow, lines=SHOWN_LINES)
        if isinstance(self._machine, DryRunHost):
            return self._machine.run(*command).code
        try:
            return subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            return EXIT_OK

    def _installed(self) -> bool:
        if self._plist.exists() or isinstance(self._machine, DryRunHost):
            return True
        complain(f"there is no {self._plist}: `mlxd agent install` makes it")
        return False

    def _load(self, done: str) -> int:
        return self._report(self._launchd.load(self._plist), done)

    def _unload(self) -> bool:
        if self._launchd.unload(self._exit_timeout_s() + UNLOAD_MARGIN_S):
            return True
        complain(f"{LABEL} does not end")
        return False

    def _exit_timeout_s(self) -> float:
        """How long launchd waits for the job that is installed."""
        if not self._plist.exists():
            return DEFAULT_EXIT_TIMEOUT_S
        plist = plistlib.loads(self._plist.read_bytes())
        return float(plist.get("ExitTimeOut", DEFAULT_EXIT_TIMEOUT_S))

    def _report(self, outcome: tuple[int, str], done: str) -> int:
        code, output = outcome
        if code != 0:
            complain(f"launchctl failed ({code}): {' '.join(output.split())}")
            return EXIT_FAILED
        if not isinstance(self._machine, DryRunHost):
            tell(f"{LABEL}: {done}")
        return EXIT_OK


def dry_run_host() -> DryRunHost:
    """For systems without launchd."""
    tell("launchd is a part of macOS: nothing is done here. deploy/mlxd.service is for systemd.")
    tell("On macOS this command")
    return DryRunHost(sys.stdout)


def tell(text: str) -> None:
    """A line for whoever asked."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """A line about what is wrong."""
    sys.stderr.write(f"mlxd: {text}\n")
