"""`mlxd doctor` shows the configuration, and finds what would keep the service from serving."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.e2e.daemon import Daemon, free_port
from tests.waiting import HANG_S

KEY = "a-key-that-must-not-be-shown"


def run_doctor(*flags: str, **environ: str) -> tuple[int, str]:
    """The exit code and output; on a free port if the flags name none."""
    port = () if "--port" in flags else ("--port", str(free_port()))
    completed = subprocess.run(
        [sys.executable, "-m", "service", "doctor", *port, *flags],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert "Traceback" not in completed.stderr, completed.stderr
    return completed.returncode, completed.stdout


def problems(output: str) -> str:
    """The summary of problems."""
    return output.partition("\nProblems:\n")[2]


def test_without_problems_it_shows_versions_device_memory_settings_and_files(
    llama_path: Path,
) -> None:
    code, output = run_doctor(
        "--model", str(llama_path), MLXD_MAX_RUNNING="7", MLXD_API_KEYS=f"alice:{KEY}"
    )
    assert (code, problems(output)) == (0, ""), output
    assert "No problems found" in output
    for part in ("mlx-lm", "device", "memory", "available", "is free", str(llama_path)):
        assert part in output
    assert "7  [MLXD_MAX_RUNNING]" in output
    assert "[command line]" in output
    assert "alice  [MLXD_API_KEYS]" in output
    assert KEY not in output


MISSING = ("--model", "nobody/has-this")


def test_mlxds_own_port_and_a_model_that_can_be_downloaded_are_no_problems(daemon: Daemon) -> None:
    code, output = run_doctor("--port", str(daemon.port), *MISSING, HF_HUB_OFFLINE="0")
    assert (code, problems(output)) == (0, ""), output
    assert "is used by mlxd" in output
    assert "the first start downloads it" in output


def test_another_programs_port_and_a_model_that_is_missing_offline_are_problems() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        taken.close()
    with socket.create_server(("127.0.0.1", int(port))):
        code, output = run_doctor("--port", port, *MISSING, HF_HUB_OFFLINE="1")
    assert code == 1
    assert "Address already in use" in problems(output)
    assert "HF_HUB_OFFLINE is set" in problems(output)


def test_all_problems_are_reported_together(llama_path: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated"
    shutil.copytree(llama_path, truncated)
    path = truncated / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, output = run_doctor(
        *("--model", str(llama_path), "--memory-limit-bytes", "1000", "--host", "0.0.0.0"),
        *("--model", str(truncated)),
        *("--tls-cert", str(tmp_path / "c.pem"), "--allowed-origins", "x"),
    )
    assert code == 1
    for reason in (
        "the largest model does not fit",
        "truncated: model.safetensors has",
        "no API key is configured",
        "one is set without the other",
        "is not an origin",
    ):
        assert reason in problems(output)


def test_a_setting_that_cannot_be_read_is_a_problem() -> None:
    code, output = run_doctor("--max-running", "none")
    assert code == 1
    assert "--max-running" in problems(output)
