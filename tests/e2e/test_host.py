"""Hostile log input, full disks, clock jumps and many requests do not stop the service."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.faulty import faulty
from tests.e2e.footprint import footprint_of, wait_until_back
from tests.e2e.keys import KEYS, PLAIN, bearer
from tests.e2e.wire import COMPLETIONS, completion, connect, head, read_answer
from tests.waiting import HANG_S

DAY_S = 86400
REQUESTS = 1000
AT_ONCE = 16
GROWTH_BYTES = 32 * 2**20
DEVICE_GROWTH_BYTES = 4 * 2**20
# Shifts the process's clock by the seconds in a file. Python imports this at its start.
MOVED_CLOCK = """
import time
from pathlib import Path
real, offset = time.time, Path({path!r})
time.time = lambda: real() + float(offset.read_text())
"""

# ---------------------------------------------------------------- logs


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_input_of_a_client_starts_a_log_line(form: str) -> None:
    hostile = "[INFO] FAKE"
    sent = [
        ("GET", f"/x%0a{hostile}%0d{hostile}%1b[31m%00", [f"User-Agent: \x1b[2J{hostile}"]),
        ("GET", f"/v1/models/%0a{hostile}", [f"X-Request-Id: a\x1b{hostile}"]),
        ("GET", f"/health?%0a{hostile}", [f"Traceparent: \x1b{hostile}"]),
        ("GET", "/v1/models", [f"Origin: http://\x1b{hostile}"]),
        ("GET", "/v1/models", [f"Authorization: Bearer \x1b{hostile}"]),
        ("GET", "/x" * 1000, []),
    ]
    with faulty("--log-format", form, "--log-level", "debug") as daemon:
        for method, path, headers in sent:
            with connect(daemon) as client:
                client.sendall(head(method, path.replace(" ", "%20"), *headers))
                assert read_answer(client)[0] < 500
        for field in ("model", "prompt", "user"):
            request = {**completion(tokens=1), field: f"\n{hostile}\x1b\u2028" + "x" * 5000}
            assert plain_http.post(f"{daemon.url}{COMPLETIONS}", json=request).status_code < 500
        daemon.stop()
        lines = "".join(daemon.lines).split("\n")
    assert any("FAKE" in line for line in lines), "the requests are logged"
    assert not any(line.lstrip("\r").startswith(hostile) for line in lines)
    assert not any("\x1b" in line or "\x00" in line or "\u2028" in line for line in lines)
    assert max(map(len, lines)) < 5000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_log_file_stops_nothing() -> None:
    with faulty("--log-file", "/dev/full", "--log-level", "debug") as daemon:
        for _ in range(20):
            answer = plain_http.post(f"{daemon.url}{COMPLETIONS}", json=completion(tokens=1))
            assert answer.status_code == 200
        assert daemon.health()["status"] == "healthy"
        assert "Traceback" not in daemon.output


def test_a_log_file_that_cannot_be_opened_ends_the_start() -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--log-file", "/nowhere/mlxd.log"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert completed.returncode == 1
    assert completed.stderr == "mlxd: cannot log to /nowhere/mlxd.log: No such file or directory\n"


def test_the_log_file_contains_the_requests_and_no_key(tmp_path: Path) -> None:
    path = tmp_path / "mlxd.log"
    with faulty("--log-file", str(path), environ=KEYS) as daemon:
        request = {"model": "fake", "prompt": "x", "max_tokens": 1}
        url = f"{daemon.url}{COMPLETIONS}"
        assert plain_http.post(url, json=request, headers=bearer(PLAIN)).status_code == 200
        assert plain_http.post(url, json=request, headers=bearer("wrong")).status_code == 401
    text = path.read_text()
    requests = [json.loads(line)["request"] for line in text.splitlines() if '"request"' in line]
    assert [(line["status"], line.get("key")) for line in requests] == [(200, "key-1"), (401, None)]
    assert PLAIN not in text


# ---------------------------------------------------------------- the clock


def test_a_wall_clock_that_jumps_by_a_day_ends_nothing(llama_path: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    (tmp_path / "sitecustomize.py").write_text(MOVED_CLOCK.format(path=str(offset)))
    offset.write_text("0")
    environ = {"PYTHONPATH": str(tmp_path), **KEYS}
    # Timeouts shorter than a day.
    flags = ["--stall-s", "20", "--queue-timeout-s", "20", "--key-tokens-per-minute", "1000000"]
    with running(llama_path, flags=flags, environ=environ) as daemon:

        def post(**more: Any) -> httpx.Response:
            request = completion(tokens=20, **more)
            return plain_http.post(
                f"{daemon.url}{COMPLETIONS}", json=request, headers=bearer(PLAIN)
            )

        now = post().json()["created"]
        request = completion(tokens=1000, stream=True)
        url = f"{daemon.url}{COMPLETIONS}"
        with plain_http.stream("POST", url, json=request, headers=bearer(PLAIN)) as response:
            lines = response.iter_lines()
            next(lines)
            for jump in (DAY_S, -DAY_S):
                # Replaced in one step, because the clock may be read at any time.
                moved = tmp_path / "moved"
                moved.write_text(str(jump))
                moved.replace(offset)
                served = post()
                assert served.status_code == 200
                # The jump shows in `created`, where it is harmless.
                assert abs(served.json()["created"] - now - jump) < DAY_S / 2
                assert daemon.health()["status"] == "healthy"
            assert [line for line in lines if line][-1] == "data: [DONE]"
        report = plain_http.get(f"{daemon.url}/health", headers=bearer(PLAIN)).json()
        assert report["worker"]["restarts"] == 0
        assert 0 < report["worker"]["uptime_s"] < DAY_S / 2


# ---------------------------------------------------------------- memory, and many requests


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
def test_a_thousand_mixed_requests_do_not_increase_memory_or_descriptors(
    llama_path: Path,
) -> None:
    # Small enough that the prompt cache is full well before the last request.
    flags = ["--prompt-cache-bytes", str(2**20), "--max-running", str(AT_ONCE)]
    with running(llama_path, flags=flags) as daemon:
        asyncio.run(ask_all(daemon, REQUESTS // 4))
        report = daemon.wait_until("requests.running", be=0)
        service, worker = daemon.process.pid, report["worker"]["pid"]
        before = {pid: footprint_of(pid) for pid in (service, worker)}
        asyncio.run(ask_all(daemon, REQUESTS))
        after = daemon.wait_until("requests.running", be=0)
        for pid in (service, worker):
            wait_until_back(pid, before[pid], growth_bytes=GROWTH_BYTES)
        growth = after["memory"]["active_bytes"] - report["memory"]["active_bytes"]
        assert growth < DEVICE_GROWTH_BYTES
        assert after["worker"]["restarts"] == 0


async def ask_all(daemon: Daemon, count: int) -> None:
    """Send `count` requests of all kinds, `AT_ONCE` concurrently, and check each response."""
    kinds: list[Callable[[httpx.AsyncClient, int], Any]] = [plain, streamed, disconnected, refused]
    numbers = iter(range(count))

    async def some(client: httpx.AsyncClient) -> None:
        for number in numbers:
            await kinds[number % len(kinds)](client, number)

    async with plain_http.async_client(daemon.url) as client:
        await asyncio.gather(*(some(client) for _ in range(AT_ONCE)))


def body(number: int, **more: Any) -> dict[str, Any]:
    prompt = f"Request {number}: " + "and so on " * (number % 40)
    return {"model": "default", "prompt": prompt, "max_tokens": 1 + number % 12, **more}


async def plain(client: httpx.AsyncClient, number: int) -> None:
    assert (await client.post(COMPLETIONS, json=body(number))).status_code == 200


async def streamed(client: httpx.AsyncClient, number: int) -> None:
    answer = await client.post(COMPLETIONS, json=body(number, stream=True))
    assert answer.text.endswith("data: [DONE]\n\n")


async def disconnected(client: httpx.AsyncClient, number: int) -> None:
    request = body(number, stream=True) | {"max_tokens": 1000}
    async with client.stream("POST", COMPLETIONS, json=request) as response:
        async for _ in response.aiter_raw():
            return


async def refused(client: httpx.AsyncClient, number: int) -> None:
    answer = await client.post(COMPLETIONS, json=body(number, temperature=-1))
    assert answer.status_code == 400


@pytest.mark.long
def test_every_request_ends_correctly_under_kills_and_disconnects() -> None:
    soak = ["soak", "--minutes", "0.25", "--kill-every-s", "6", "--seed", "8"]
    soak += ["--clients", "12", "--cases", "24"]
    completed = subprocess.run(
        [sys.executable, "-m", "tests.load", *soak],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-4000:]
    assert '"kills": 0,' not in completed.stdout
