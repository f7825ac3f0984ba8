"""Starting, stopping, and what a user sees when it does not start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.endings import wait_gone
from tests.e2e.faulty import faulty
from tests.waiting import HANG_S


def run_service(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "serve", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def chat(url: str, **more: object) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    asked = {"model": "default", "messages": messages, "max_tokens": 4000, **more}
    return plain_http.post(f"{url}/v1/chat/completions", json=asked)


def test_the_start_screen_names_the_model_the_device_the_url_and_a_request_that_works(
    daemon: Daemon, llama_path: Path
) -> None:
    url = daemon.url
    curl = next(line for line in daemon.lines if line.startswith("curl"))
    assert llama_path.name in daemon.output
    assert "device" in daemon.output
    assert "memory" in daemon.output
    answer = subprocess.run(
        curl, shell=True, capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert url in curl
    assert answer.stdout.rstrip().endswith("data: [DONE]")


def test_loading_is_told_in_plain_lines_where_there_is_no_terminal(daemon: Daemon) -> None:
    loading = [line for line in daemon.lines if line.startswith(("loading ", "loaded "))]
    # Of three models the first one is loaded.
    assert [line.split()[0] for line in loading] == ["loading", "loaded"]
    assert all("\x1b" not in line for line in daemon.lines)


@pytest.mark.parametrize("host", ["a" * 80, "é..x"])
def test_a_host_that_is_no_host_name_is_told_in_one_line(host: str) -> None:
    ended = run_service("--host", host)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line == f"mlxd: cannot listen on {host}:8000: it is no valid host name"


def test_without_a_model_the_built_in_one_is_served(demo: Daemon) -> None:
    [model] = plain_http.get(f"{demo.url}/v1/models").json()["data"]
    assert model["id"] == "mlxd-demo"
    assert model["loaded"] is True
    assert chat(demo.url, max_tokens=8).status_code == 200


def test_health_is_healthy_and_names_version_worker_and_memory(daemon: Daemon) -> None:
    answer = plain_http.get(f"{daemon.url}/health")
    report = answer.json()
    assert answer.status_code == 200
    assert report["status"] == "healthy"
    assert report["version"]
    assert report["worker"]["restarts"] == 0
    assert report["worker"]["last_exit"] is None
    assert report["memory"]["active_bytes"] > 0
    os.kill(report["worker"]["pid"], 0)


def test_the_worker_is_another_process_and_the_service_has_no_mlx(daemon: Daemon) -> None:
    worker = daemon.health()["worker"]["pid"]
    assert worker != daemon.process.pid
    maps = Path(f"/proc/{daemon.process.pid}/maps")
    if not maps.exists():
        pytest.skip("there is no /proc to look at a process's libraries")
    assert "libmlx" not in maps.read_text()
    assert "libmlx" in Path(f"/proc/{worker}/maps").read_text()


def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_service("--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "cannot listen on 127.0.0.1" in line


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--max-running", "none"], ["--nonsense"]])
def test_a_bad_setting_is_one_line_and_exit_code_2(flags: list[str]) -> None:
    ended = run_service(*flags)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert flags[0].strip("-") in line


def test_a_model_that_cannot_be_loaded_ends_the_service_and_says_why(tmp_path: Path) -> None:
    ended = run_service("--port", "0", "--model", str(tmp_path))
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert f"model '{tmp_path.name}' cannot be loaded" in line


def test_requests_during_loading_are_told_to_come_back(tmp_path: Path) -> None:
    with faulty(source=f"{tmp_path}/starts[held 0]", wait=False) as daemon:
        daemon.wait_until("status", be="loading")
        health, refused = plain_http.get(f"{daemon.url}/health"), chat(daemon.url)
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
        assert int(refused.headers["retry-after"]) > 0
        (tmp_path / "starts.released").touch()
        daemon.wait_serving()
        assert chat(daemon.url, max_tokens=1).status_code == 200


def test_sigterm_ends_an_idle_service_and_its_worker_with_exit_code_0(llama_path: Path) -> None:
    with running(llama_path) as daemon:
        worker = daemon.health()["worker"]["pid"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_sigterm_lets_a_running_answer_finish(llama_path: Path) -> None:
    with running(llama_path, flags=["--drain-s", "3600"]) as daemon:
        with streaming(daemon, tokens=600) as lines:
            daemon.signal(signal.SIGTERM)
            text = list(lines)
        assert daemon.wait() == 0
    assert "data: [DONE]" in text
    assert not any('"error"' in line for line in text)


def test_an_answer_that_outlasts_the_drain_ends_in_an_error_event(llama_path: Path) -> None:
    with running(llama_path, flags=["--drain-s", "0.2"]) as daemon:
        with streaming(daemon, tokens=4000) as lines:
            daemon.signal(signal.SIGTERM)
            events = [line for line in lines if line]
        assert daemon.wait() == 0
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "draining")


def test_a_second_signal_ends_it_at_once(llama_path: Path) -> None:
    with running(llama_path) as daemon, streaming(daemon, tokens=4000):
        worker = daemon.health()["worker"]["pid"]
        daemon.signal(signal.SIGTERM)
        daemon.wait_until("status", be="draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 128 + signal.SIGTERM
    wait_gone(worker)


def test_a_killed_service_takes_its_worker_with_it_although_that_is_busy(llama_path: Path) -> None:
    with running(llama_path) as daemon, streaming(daemon, tokens=4000):
        worker = daemon.health()["worker"]["pid"]
        daemon.process.kill()
        daemon.wait()
    wait_gone(worker)


def test_a_hang_up_ends_nothing(daemon: Daemon) -> None:
    daemon.signal(signal.SIGHUP)
    assert daemon.health()["status"] == "healthy"


@contextmanager
def streaming(daemon: Daemon, *, tokens: int) -> Iterator[Iterator[str]]:
    """The lines of a long stream after its first: its answer is on the device."""
    asked = {"model": "default", "prompt": "x", "max_tokens": tokens, "stream": True}
    asked["ignore_eos"] = True
    with plain_http.stream("POST", f"{daemon.url}/v1/completions", json=asked) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield lines
