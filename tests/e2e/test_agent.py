"""A process started from the property list serves, stops, and can be started again."""

from __future__ import annotations

import contextlib
import plistlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import free_port
from tests.waiting import HANG_S, wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"


def print_plist(
    *flags: str, environ: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[bytes]:
    program = str(Path(sys.executable).absolute())
    root = str(DEPLOY.parent)
    return subprocess.run(
        [program, "-m", "service", "agent", "install", "--print", *flags],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", **environ},
        cwd=folder,
        capture_output=True,
        timeout=HANG_S,
        check=False,
    )


@contextmanager
def launched(plist: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the arguments, environment and folder of `plist`, as launchd starts it."""
    Path(plist["StandardOutPath"]).parent.mkdir(parents=True, exist_ok=True)
    with (
        Path(plist["StandardOutPath"]).open("ab") as out,
        Path(plist["StandardErrorPath"]).open("ab") as err,
    ):
        process = subprocess.Popen(
            plist["ProgramArguments"],
            env=plist["EnvironmentVariables"],
            cwd=plist["WorkingDirectory"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_healthy(port: int, process: subprocess.Popen[bytes], logs: Path) -> None:
    def is_healthy() -> bool:
        assert process.poll() is None, printed()
        with contextlib.suppress(httpx.TransportError):
            return plain_http.get(f"http://127.0.0.1:{port}/health").status_code == 200
        return False

    def printed() -> str:
        return "\n".join(file.read_text() for file in logs.iterdir())

    wait_for(is_healthy, printed)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_the_printed_property_list_runs_restarts_after_a_failure_and_stops(
    llama_path: Path, home: Path
) -> None:
    port = free_port()
    printed = print_plist(
        *("--port", str(port), "--model", f"tiny={llama_path.name}", "--drain-s", "3"),
        environ={"HOME": str(home), "MLXD_LOG_LEVEL": "debug"},
        folder=llama_path.parent,
    )
    assert (printed.returncode, printed.stderr) == (0, b"")
    plist = plistlib.loads(printed.stdout)
    logs = home / "Library" / "Logs" / "mlxd"
    assert plist["ProcessType"] == "Interactive"
    assert plist["EnvironmentVariables"]["MLXD_LOG_LEVEL"] == "debug"
    with launched(plist) as process:
        wait_healthy(port, process, logs)
        process.kill()
        status = process.wait()
    # launchd.plist(5): with SuccessfulExit false a job is restarted only after a failure.
    assert status != 0
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert plist["ThrottleInterval"] >= 10
    with launched(plist) as process:
        wait_healthy(port, process, logs)
        process.send_signal(signal.SIGTERM)
        # With exit code 0 launchd does not restart it.
        assert process.wait(HANG_S) == 0
        assert plist["ExitTimeOut"] > 3
    assert "draining" in (logs / "mlxd.log").read_text()


def test_the_property_list_has_absolute_paths_only(home: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "mlxd.toml").write_text("port = 1")
    printed = print_plist(
        *("--config", "mlxd.toml", "--model", "tiny", "--model", "org/name", "--tls-cert", "c.pem"),
        *("--tls-key", "~/k.pem"),
        environ={"HOME": str(home), "MLXD_KEYS_FILE": "k.json", "MLXD_MODELS": "a=tiny,org/b"},
        folder=tmp_path,
    )
    plist = plistlib.loads(printed.stdout)
    words, environ = plist["ProgramArguments"], plist["EnvironmentVariables"]
    assert Path(words[0]).is_absolute()
    assert sorted(words[5:]) == [
        f"--config={tmp_path}/mlxd.toml",
        f"--log-file={home}/Library/Logs/mlxd/mlxd.log",
        f"--model={tmp_path}/tiny",
        "--model=org/name",
        f"--tls-cert={tmp_path}/c.pem",
        f"--tls-key={home}/k.pem",
    ]
    assert environ["MLXD_KEYS_FILE"] == f"{tmp_path}/k.json"
    assert environ["MLXD_MODELS"] == f"a={tmp_path}/tiny,org/b"
    assert plist["WorkingDirectory"] == str(home)


def test_a_configuration_file_with_relative_paths_is_refused(home: Path, tmp_path: Path) -> None:
    for text in ('tls_cert = "c.pem"\ntls_key = "/k.pem"', '[[models]]\nsource = "./tiny"'):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "mlxd.toml").write_text(text)
        printed = print_plist("--config", "mlxd.toml", environ={"HOME": str(home)}, folder=tmp_path)
        assert (printed.returncode, printed.stdout) == (2, b"")
        assert b"is relative" in printed.stderr


def test_secrets_are_left_out_with_a_warning(home: Path) -> None:
    secrets = {"HF_TOKEN": "hf_x", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=x"}
    printed = print_plist(environ={"HOME": str(home), **secrets}, folder=home)
    plist = plistlib.loads(printed.stdout)
    assert not set(secrets) & set(plist["EnvironmentVariables"])
    assert all(name.encode() in printed.stderr for name in secrets)


def test_a_launch_daemon_runs_as_the_given_user(home: Path) -> None:
    printed = print_plist("--daemon", "root", environ={"HOME": str(home)}, folder=home)
    plist = plistlib.loads(printed.stdout)
    assert plist["UserName"] == "root"
    assert plist["WorkingDirectory"] == plist["EnvironmentVariables"]["HOME"] != str(home)
    failed = print_plist("--daemon", "no-such-user", environ={"HOME": str(home)}, folder=home)
    assert (failed.returncode, failed.stdout) == (2, b"")


def test_systemd_accepts_the_unit_file(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "mlxd.service").read_text()
    # systemd checks that the program and the manual exist; only an installation has them there.
    text = text.replace("/opt/mlxd/.venv/bin/python", sys.executable)
    text = text.replace("file:///opt/mlxd/README.md", f"file://{DEPLOY.parent}/README.md")
    unit = tmp_path / "mlxd.service"
    unit.write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
