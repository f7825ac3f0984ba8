"""`mlxd agent`: install and control the service as a LaunchAgent."""

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
from service.host.agent_job import make_job
from service.host.launchd import (
    LABEL,
    DryRunHost,
    Launchd,
    LaunchdHost,
    Machine,
    plist_path,
    render,
    tail_command,
)
from service.server import EXIT_FAILED, EXIT_OK

ACTIONS = ("install", "uninstall", "start", "stop", "restart", "status", "logs")
SHOWN_LINES = 200
# launchd kills the job at ExitTimeOut, and removes it a moment later.
UNLOAD_MARGIN_S = 10.0
DEFAULT_EXIT_TIMEOUT_S = 60.0
# The exit code of init scripts for a service that is not running.
EXIT_NOT_RUNNING = 3


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    machine: Machine | None = None,
    home: Path | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the action, and return the exit code. Without launchd, print what it would do.

    Raises:
        SettingsError: the command line or a setting cannot be used; nothing was changed.
    """
    options, flags = make_parser().parse_known_args(argv)
    if flags and options.action != "install":
        raise SettingsError(f"command line: {flags[0]} is for `mlxd agent install`")
    home = home or Path.home()
    if options.print:
        return print_plist(options, flags, environ, home)
    if options.daemon:
        raise SettingsError("command line: --daemon needs --print; see deploy/README.md")
    if machine is None:
        machine = LaunchdHost() if sys.platform == "darwin" else dry_run_host()
    agent = Agent(machine, home, sleep)
    match options.action:
        case "install":
            return agent.install(flags, environ)
        case "logs":
            return agent.logs(follow=options.follow)
        case action:
            method: Callable[[], int] = getattr(agent, action)
            return method()


def make_parser() -> Parser:
    """The command's own arguments; unknown flags are those of `serve`."""
    parser = Parser(
        prog="mlxd agent",
        description="Run the service as a LaunchAgent: it starts at login, and again after a "
        "failure. `install` takes the flags of `mlxd serve`, and stores them together with the "
        "settings from the environment. Install again to change them.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=ACTIONS, metavar="|".join(ACTIONS))
    parser.add_argument(
        "--print", action="store_true", help="print the property list, and install nothing"
    )
    parser.add_argument(
        "--daemon", metavar="USER", help="print a LaunchDaemon that runs as USER without a login"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="logs: follow new lines")
    return parser


def print_plist(
    options: Namespace, flags: Sequence[str], environ: Mapping[str, str], home: Path
) -> int:
    """Write only the property list to standard output."""
    if options.action != "install":
        raise SettingsError("command line: --print is for `mlxd agent install`")
    job = make_job(flags, environ, home_of(options.daemon) if options.daemon else home, print_error)
    sys.stdout.buffer.write(render(job._replace(user=options.daemon)))
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
        raise SettingsError(f"--daemon: there is no user {excerpt(user, 100)}") from None


class Agent:
    """The LaunchAgent of one user."""

    def __init__(self, machine: Machine, home: Path, sleep: Callable[[float], None]) -> None:
        self._machine = machine
        self._home = home
        self._launchd = Launchd(machine, os.getuid(), sleep=sleep)
        self._plist = plist_path(home)

    def install(self, flags: Sequence[str], environ: Mapping[str, str]) -> int:
        """Write the property list and load the job, unless it is loaded with these settings."""
        job = make_job(flags, environ, self._home, print_error)
        plist = render(job)
        loaded = self._launchd.state() is not None
        if loaded and self._plist.exists() and self._plist.read_bytes() == plist:
            print_line(f"{LABEL} is already installed and loaded with these settings")
            return EXIT_OK
        if loaded and not self._unload():
            return EXIT_FAILED
        self._machine.make_folder(job.log_folder)
        self._machine.write(self._plist, plist)
        return self._load("installed")

    def uninstall(self) -> int:
        """Stop the service and remove its property list. The logs are kept."""
        if self._launchd.state() is not None and not self._unload():
            return EXIT_FAILED
        self._machine.remove(self._plist)
        return self._report((EXIT_OK, ""), "uninstalled; the logs are kept")

    def start(self) -> int:
        """Start the service, if it is not running."""
        if self._launchd.state() is None:
            return self._load("started") if self._installed() else EXIT_FAILED
        return self._report(self._launchd.start(), "started")

    def stop(self) -> int:
        """Stop the service until the next login or `start`; running requests may finish."""
        if "pid" not in (self._launchd.state() or {}):
            print_line(f"{LABEL} is not running")
            return EXIT_OK
        return self._report(self._launchd.stop(), "stopping; running requests may finish")

    def restart(self) -> int:
        """Stop the service, and start it with the installed settings."""
        if not self._installed():
            return EXIT_FAILED
        if self._launchd.state() is not None and not self._unload():
            return EXIT_FAILED
        return self._load("restarted")

    def status(self) -> int:
        """Print whether the service is installed, loaded and running."""
        state = self._launchd.state()
        if state is None:
            installed = "installed, not loaded" if self._plist.exists() else "not installed"
            print_line(f"{LABEL}: {installed}")
            return EXIT_NOT_RUNNING
        for name in ("state", "pid", "last exit code", "last terminating signal"):
            if name in state:
                print_line(f"{name}: {state[name]}")
        print_line(f"plist: {self._plist}")
        return EXIT_OK if "pid" in state else EXIT_NOT_RUNNING

    def logs(self, *, follow: bool) -> int:
        """Print the last lines of the logs; with `follow` also new lines, until interrupted."""
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
        print_error(f"there is no {self._plist}: `mlxd agent install` creates it")
        return False

    def _load(self, success: str) -> int:
        return self._report(self._launchd.load(self._plist), success)

    def _unload(self) -> bool:
        if self._launchd.unload(self._exit_timeout_s() + UNLOAD_MARGIN_S):
            return True
        print_error(f"{LABEL} has not stopped in time")
        return False

    def _exit_timeout_s(self) -> float:
        """How long launchd waits for the installed job to exit."""
        if not self._plist.exists():
            return DEFAULT_EXIT_TIMEOUT_S
        plist = plistlib.loads(self._plist.read_bytes())
        return float(plist.get("ExitTimeOut", DEFAULT_EXIT_TIMEOUT_S))

    def _report(self, result: tuple[int, str], success: str) -> int:
        code, output = result
        if code != 0:
            print_error(f"launchctl failed ({code}): {' '.join(output.split())}")
            return EXIT_FAILED
        if not isinstance(self._machine, DryRunHost):
            print_line(f"{LABEL}: {success}")
        return EXIT_OK


def dry_run_host() -> DryRunHost:
    """The host for systems without launchd."""
    print_line("launchd exists only on macOS: nothing is changed. For systemd: deploy/mlxd.service")
    print_line("On macOS this command:")
    return DryRunHost(sys.stdout)


def print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def print_error(text: str) -> None:
    sys.stderr.write(f"mlxd: {text}\n")
