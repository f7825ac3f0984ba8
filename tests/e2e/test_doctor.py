"""`mlxd doctor`: what it tells, and that it finds what would keep the service from serving."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.e2e.daemon import Daemon, free_port

KEY = "a-key-that-must-not-be-shown"


def examine(*flags: str, **environ: str) -> tuple[int, str]:
    """Its exit code and output, on a free port where the flags name none."""
    port = () if "--port" in flags else ("--port", str(free_port()))
    ended = subprocess.run(
        [sys.executable, "-m", "service", "doctor", *port, *flags],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, ended.stdout


def wrong(output: str) -> str:
    """What it says is wrong."""
    return output.partition("\nWrong:\n")[2]


def test_where_all_is_well_it_says_so_with_versions_device_memory_settings_and_files(
    llama_path: Path,
) -> None:
    code, shown = examine(
        "--model", str(llama_path), MLXD_MAX_RUNNING="7", MLXD_API_KEYS=f"alice:{KEY}"
    )
    assert (code, wrong(shown)) == (0, ""), shown
    assert "Nothing is wrong" in shown
    for part in ("mlx-lm", "device", "memory", "available", "is free", str(llama_path)):
        assert part in shown
    assert "7  [MLXD_MAX_RUNNING]" in shown
    assert "[command line]" in shown
    assert "alice  [MLXD_API_KEYS]" in shown
    assert KEY not in shown


def test_a_port_that_is_taken_is_wrong_unless_it_is_by_a_service_of_ours(daemon: Daemon) -> None:
    code, shown = examine("--port", str(daemon.port))
    assert code == 0
    assert "serves mlxd" in shown
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        taken.close()
    with socket.create_server(("127.0.0.1", int(port))):
        code, shown = examine("--port", port)
    assert code == 1
    assert "Address already in use" in wrong(shown)


def test_files_that_are_cut_short_are_found_without_loading_them(
    llama_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(llama_path, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, shown = examine("--model", str(folder))
    assert code == 1
    assert "tiny: model.safetensors has" in wrong(shown)


def test_a_model_of_the_hub_that_is_not_here_is_wrong_only_without_a_network() -> None:
    code, shown = examine("--model", "nobody/has-this", HF_HUB_OFFLINE="0")
    assert (code, "the first start does it" in shown) == (0, True)
    code, shown = examine("--model", "nobody/has-this", HF_HUB_OFFLINE="1")
    assert code == 1
    assert "HF_HUB_OFFLINE is set" in wrong(shown)


def test_everything_that_is_wrong_is_told_at_once(llama_path: Path, tmp_path: Path) -> None:
    code, shown = examine(
        *("--model", str(llama_path), "--memory-limit-bytes", "1000", "--host", "0.0.0.0"),
        *("--tls-cert", str(tmp_path / "c.pem"), "--allowed-origins", "x"),
    )
    assert code == 1
    for reason in (
        "the largest model does not fit",
        "no API key is configured",
        "one is set without the other",
        "is not an origin",
    ):
        assert reason in wrong(shown)


def test_a_setting_that_cannot_be_read_is_wrong() -> None:
    code, shown = examine("--max-running", "none")
    assert code == 1
    assert "--max-running" in wrong(shown)
