"""What the machine does to a service, and clients to its log: none of it stops or fools it."""

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

from tests.e2e.daemon import Daemon, running
from tests.e2e.faulty import faulty
from tests.e2e.footprint import footprint_of, wait_until_back
from tests.e2e.keys import KEYS, PLAIN, bearer
from tests.e2e.wire import COMPLETIONS, completion, connect, head, read_answer

DAY_S = 86400
REQUESTS = 1000
AT_ONCE = 16
GROWTH_BYTES = 32 * 2**20
DEVICE_GROWTH_BYTES = 4 * 2**20
# Time as this process sees it, moved by what a file says. Python imports this at its start.
MOVED_CLOCK = """
import time
from pathlib import Path
real, offset = time.time, Path({path!r})
time.time = lambda: real() + float(offset.read_text())
"""

# ---------------------------------------------------------------- logs


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_a_client_sends_writes_a_line_of_its_own(form: str) -> None:
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
            asked = {**completion(tokens=1), field: f"\n{hostile}\x1b\u2028" + "x" * 5000}
            assert httpx.post(f"{daemon.url}{COMPLETIONS}", json=asked).status_code < 500
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
            answer = httpx.post(f"{daemon.url}{COMPLETIONS}", json=completion(tokens=1))
            assert answer.status_code == 200
        assert daemon.health()["status"] == "healthy"
        assert "Traceback" not in daemon.output


def test_a_log_file_that_cannot_be_opened_ends_the_start() -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--log-file", "/nowhere/mlxd.log"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "mlxd: cannot log to /nowhere/mlxd.log: No such file or directory\n"


def test_the_log_file_holds_the_requests_and_no_key(tmp_path: Path) -> None:
    path = tmp_path / "mlxd.log"
    with faulty("--log-file", str(path), environ=KEYS) as daemon:
        asked = {"model": "fake", "prompt": "x", "max_tokens": 1}
        url = f"{daemon.url}{COMPLETIONS}"
        assert httpx.post(url, json=asked, headers=bearer(PLAIN)).status_code == 200
        assert httpx.post(url, json=asked, headers=bearer("wrong")).status_code == 401
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
    # Short times, all of which a day would exceed.
    flags = ["--stall-s", "20", "--queue-timeout-s", "20", "--key-tokens-per-minute", "1000000"]
    with running(llama_path, flags=flags, environ=environ) as daemon:

        def post(**more: Any) -> httpx.Response:
            asked = completion(tokens=20, **more)
            return httpx.post(
                f"{daemon.url}{COMPLETIONS}", json=asked, headers=bearer(PLAIN), timeout=60
            )

        now = post().json()["created"]
        asked = completion(tokens=3000, stream=True)
        url = f"{daemon.url}{COMPLETIONS}"
        with httpx.stream("POST", url, json=asked, headers=bearer(PLAIN), timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            for jump in (DAY_S, -DAY_S):
                # In one step: the clock is read at any time.
                moved = tmp_path / "moved"
                moved.write_text(str(jump))
                moved.replace(offset)
                served = post()
                assert served.status_code == 200
                # It was seen, and only where it is harmless.
                assert abs(served.json()["created"] - now - jump) < DAY_S / 2
                assert daemon.health()["status"] == "healthy"
            assert [line for line in lines if line][-1] == "data: [DONE]"
        report = daemon.health()
        assert report["worker"]["restarts"] == 0
        assert 0 < report["worker"]["uptime_s"] < DAY_S / 2


# ---------------------------------------------------------------- memory, and minutes of mischief


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to measure with")
def test_a_thousand_mixed_requests_leave_memory_and_descriptors_as_they_were(
    llama_path: Path,
) -> None:
    # Room for a few prompts, so that what is kept of them is bounded well before the end.
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
    """So many requests of each kind in turn, some at once; each answered as its kind must be."""
    kinds: list[Callable[[httpx.AsyncClient, int], Any]] = [plain, streamed, left, refused]
    numbers = iter(range(count))

    async def some(client: httpx.AsyncClient) -> None:
        for number in numbers:
            await kinds[number % len(kinds)](client, number)

    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        await asyncio.gather(*(some(client) for _ in range(AT_ONCE)))


def body(number: int, **more: Any) -> dict[str, Any]:
    prompt = f"Request {number}: " + "and so on " * (number % 40)
    return {"model": "default", "prompt": prompt, "max_tokens": 1 + number % 12, **more}


async def plain(client: httpx.AsyncClient, number: int) -> None:
    assert (await client.post(COMPLETIONS, json=body(number))).status_code == 200


async def streamed(client: httpx.AsyncClient, number: int) -> None:
    answer = await client.post(COMPLETIONS, json=body(number, stream=True))
    assert answer.text.endswith("data: [DONE]\n\n")


async def left(client: httpx.AsyncClient, number: int) -> None:
    asked = body(number, stream=True) | {"max_tokens": 1000}
    async with client.stream("POST", COMPLETIONS, json=asked) as response:
        async for _ in response.aiter_raw():
            return


async def refused(client: httpx.AsyncClient, number: int) -> None:
    answer = await client.post(COMPLETIONS, json=body(number, temperature=-1))
    assert answer.status_code == 400


def test_under_kills_and_clients_that_leave_every_request_ends_rightly() -> None:
    soak = ["soak", "--minutes", "0.15", "--kill-every-s", "3", "--seed", "8"]
    soak += ["--clients", "12", "--cases", "24"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.load", *soak],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert '"kills": 0,' not in ended.stdout
