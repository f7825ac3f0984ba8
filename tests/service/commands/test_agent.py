"""`mlxd agent` against a fake `launchctl` that behaves as its manual page describes."""

from __future__ import annotations

import os
import plistlib
from pathlib import Path
from typing import Any

import pytest

from service.commands import agent
from service.config.scalars import SettingsError
from service.host.launchd import LABEL, CommandOutput, LaunchdHost

TARGET = f"gui/{os.getuid()}/{LABEL}"


class FakeMac(LaunchdHost):
    """Files are real. launchd is one job that is loaded or not, and running or not."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.loaded: dict[str, Any] | None = None
        self.running = False
        # How often `print` still shows a job after `bootout`.
        self.lingering_prints = 0
        self.failing_verb: str | None = None
        # How often it refuses to load a job that it has just removed.
        self.refused_loads = 0

    def run(self, *words: str) -> CommandOutput:
        _, verb, *rest = words
        if verb == self.failing_verb:
            return CommandOutput(5, "Bootstrap failed: 5: Input/output error\n")
        if verb != "print":
            self.commands.append(words)
        match verb:
            case "print":
                return self._print()
            case "bootstrap" if self.refused_loads:
                self.refused_loads -= 1
                return CommandOutput(5, "Bootstrap failed: 5: Input/output error\n")
            case "bootstrap":
                assert self.loaded is None, "launchd refuses a job that is loaded"
                self.loaded = plistlib.loads(Path(rest[1]).read_bytes())
                self.running = True
            case "bootout":
                self.running = False
                if not self.lingering_prints:
                    self.loaded = None
            case "kickstart":
                self.running = True
            case "kill":
                self.running = False
        return CommandOutput(0, "")

    def _print(self) -> CommandOutput:
        if self.lingering_prints:
            self.lingering_prints -= 1
            if not self.lingering_prints:
                self.loaded = None
                return CommandOutput(113, "Could not find service")
        if self.loaded is None:
            return CommandOutput(113, "Could not find service")
        state = "running\n\tpid = 42" if self.running else "not running"
        return CommandOutput(0, f"{TARGET} = {{\n\tstate = {state}\n\tlast exit code = 0\n}}\n")

    @property
    def verbs(self) -> list[str]:
        return [words[1] for words in self.commands]


@pytest.fixture
def mac() -> FakeMac:
    return FakeMac()


@pytest.fixture
def run(mac: FakeMac, tmp_path: Path) -> Any:
    def run(*argv: str, **environ: str) -> int:
        return agent.run(argv, environ, machine=mac, home=tmp_path, sleep=lambda seconds: None)

    return run


def plist_of(home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def test_install_writes_the_property_list_makes_the_log_folder_and_loads_the_job(
    run: Any, mac: FakeMac, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", "--port", "8123") == 0
    assert mac.verbs == ["enable", "bootstrap"]
    assert mac.loaded is not None
    assert "--port=8123" in mac.loaded["ProgramArguments"]
    assert (tmp_path / "Library" / "Logs" / "mlxd").is_dir()
    assert "installed" in capsys.readouterr().out


def test_installing_again_changes_nothing_unless_the_settings_changed(
    run: Any, mac: FakeMac, tmp_path: Path
) -> None:
    run("install")
    mac.commands.clear()
    before = plist_of(tmp_path).stat()
    assert run("install") == 0
    assert mac.commands == []
    assert plist_of(tmp_path).stat() == before
    mac.lingering_prints = 3
    assert run("install", "--port", "9") == 0
    assert mac.verbs == ["bootout", "enable", "bootstrap"]
    assert mac.loaded is not None
    assert "--port=9" in mac.loaded["ProgramArguments"]


def test_uninstall_stops_the_service_and_may_be_repeated(
    run: Any, mac: FakeMac, tmp_path: Path
) -> None:
    run("install")
    for _ in range(2):
        assert run("uninstall") == 0
        assert not plist_of(tmp_path).exists()
        assert mac.loaded is None
    assert mac.verbs.count("bootout") == 1


def test_stop_sends_sigterm_and_start_starts_the_service_again(run: Any, mac: FakeMac) -> None:
    run("install")
    assert run("stop") == 0
    assert mac.commands[-1] == ("launchctl", "kill", "SIGTERM", TARGET)
    assert run("status") == agent.EXIT_NOT_RUNNING
    assert run("stop") == 0
    assert run("start") == 0
    assert run("status") == 0
    assert mac.verbs.count("kill") == 1


def test_start_loads_an_installed_job_that_is_not_loaded(run: Any, mac: FakeMac) -> None:
    run("install")
    mac.loaded = None
    assert run("start") == 0
    assert mac.loaded is not None


def test_restart_loads_the_job_only_after_it_is_removed(run: Any, mac: FakeMac) -> None:
    run("install")
    mac.commands.clear()
    mac.lingering_prints = 5
    assert run("restart") == 0
    assert mac.verbs == ["bootout", "enable", "bootstrap"]


def test_a_load_that_launchd_refuses_for_a_moment_is_retried(run: Any, mac: FakeMac) -> None:
    run("install")
    mac.refused_loads = 3
    assert run("restart") == 0
    assert mac.running


@pytest.mark.parametrize("action", ["start", "restart"])
def test_a_service_that_is_not_installed_cannot_be_started(
    action: str, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(action) == 1
    assert "`mlxd agent install` creates it" in capsys.readouterr().err


def test_status_shows_whether_the_job_is_installed_and_running(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status") == agent.EXIT_NOT_RUNNING
    assert "not installed" in capsys.readouterr().out
    run("install")
    assert run("status") == 0
    output = capsys.readouterr().out
    assert "state: running" in output
    assert "pid: 42" in output


def test_an_error_of_launchctl_is_reported(
    run: Any, mac: FakeMac, capsys: pytest.CaptureFixture[str]
) -> None:
    mac.failing_verb = "bootstrap"
    assert run("install") == 1
    assert "launchctl failed (5): Bootstrap failed: 5" in capsys.readouterr().err


def test_keys_of_the_environment_are_not_written_to_a_file(run: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`mlxd keys add`"):
        run("install", MLXD_API_KEYS="a-key-that-is-secret")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [["status", "--port", "1"], ["install", "--prot", "1"], ["frob"], [], ["start", "--print"]],
)
def test_a_wrong_command_line_is_refused_and_changes_nothing(
    argv: list[str], run: Any, mac: FakeMac, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError):
        run(*argv)
    assert (mac.commands, list(tmp_path.iterdir())) == ([], [])


def test_without_launchd_it_prints_what_it_would_do_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in agent.ACTIONS:
        code = agent.run([action], {}, machine=agent.dry_run_host(), home=tmp_path)
        assert code in (0, agent.EXIT_NOT_RUNNING)
    output = capsys.readouterr().out
    assert f"would run launchctl bootstrap gui/{os.getuid()}" in output
    assert f"would write {plist_of(tmp_path)}" in output
    assert list(tmp_path.iterdir()) == []
