"""Kills the worker of a real service with SIGKILL during a stream: the answer must be the same."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protocol.selftest import FAILURE, Figure
from service.config.scalars import VARIABLE_PREFIX
from service.supervision.process import CODE_FOLDER

SECTION = "resume"
SERVICE_COMMAND = (sys.executable, "-P", "-m", "service", "serve")
FLAGS = ("--host", "127.0.0.1", "--keys-file", "off", "--log-level", "error")
HOST = "127.0.0.1"
START_TIMEOUT_S, ANSWER_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 60.0, 60.0
POLL_S = 0.05
MS_PER_S = 1000.0
REQUEST = {
    "model": "default",
    "prompt": "Tell me a story about a fox.",
    "max_tokens": 256,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}
KILL_AFTER_CHUNKS = 8
LEFT_OUT = (VARIABLE_PREFIX, "OTEL_")


class ResumeFailed(Exception):
    """The service does not do what it should; the text says what."""


def check_resume(
    environ: Mapping[str, str], command: Sequence[str] = SERVICE_COMMAND
) -> Iterator[Figure]:
    """The figures of the section `resume`, with the built-in model."""
    service = ProbedService(environ, command)
    try:
        yield make_figure("start_ms", service.wait_ready() * MS_PER_S)
        expected = "".join(text for _, text in service.stream())
        text, first_token_s = stream_through_kill(service)
        is_equal = text == expected
        yield Figure(
            section=SECTION,
            name="text",
            value=is_equal,
            verdict="ok" if is_equal else "failed",
            note="" if is_equal else "the answer is not the same after kill -9",
        )
        yield make_figure("first_token_ms", first_token_s * MS_PER_S)
        yield make_figure("stop_ms", service.stop() * MS_PER_S)
    except (ResumeFailed, OSError, http.client.HTTPException, ValueError, LookupError) as error:
        note = f"{type(error).__name__}: {error}"
        yield Figure(section=SECTION, name=FAILURE, verdict="failed", note=note)
    finally:
        service.close()


def stream_through_kill(service: ProbedService) -> tuple[str, float]:
    """An answer during which the worker is killed, and the seconds from there to the next text.

    Raises:
        ResumeFailed: the answer was complete before the kill.
    """
    texts: list[str] = []
    killed_at = first_token_s = 0.0
    for at, text in service.stream():
        if killed_at and not first_token_s and at > killed_at:
            first_token_s = at - killed_at
        texts.append(text)
        if len(texts) == KILL_AFTER_CHUNKS:
            os.kill(service.worker_pid(), signal.SIGKILL)
            killed_at = time.monotonic()
    if service.health()["worker"]["restarts"] != 1:
        raise ResumeFailed("the worker was not killed during the answer")
    return "".join(texts), first_token_s


class ProbedService:
    """`mlxd serve` with the built-in model and no settings, on a free port."""

    def __init__(self, environ: Mapping[str, str], command: Sequence[str]) -> None:
        self._port = free_port()
        kept = {key: text for key, text in environ.items() if not key.startswith(LEFT_OUT)}
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port), *FLAGS],
            env={**kept, "PYTHONPATH": CODE_FOLDER},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_ready(self) -> float:
        """Wait until it is healthy; the seconds since its start.

        Raises:
            ResumeFailed: it has ended, or is not healthy in time.
        """
        while time.monotonic() < self._started_at + START_TIMEOUT_S:
            if (code := self._process.poll()) is not None:
                raise ResumeFailed(f"the service ended with exit code {code}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.health()["status"] == "healthy":
                    return time.monotonic() - self._started_at
            time.sleep(POLL_S)
        raise ResumeFailed(f"the service was not healthy after {START_TIMEOUT_S:g} seconds")

    def health(self) -> dict[str, Any]:
        """What `/health` says."""
        with contextlib.closing(self._connect()) as connection:
            connection.request("GET", "/health")
            report: dict[str, Any] = json.loads(connection.getresponse().read())
        return report

    def worker_pid(self) -> int:
        """The worker's process id."""
        return int(self.health()["worker"]["pid"])

    def stream(self) -> Iterator[tuple[float, str]]:
        """The texts of an answer, each with the time at which it was read.

        Raises:
            ResumeFailed: the answer is an error.
        """
        with contextlib.closing(self._connect()) as connection:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(REQUEST), headers)
            for line in connection.getresponse():
                event = line.removeprefix(b"data: ").strip()
                if event == b"[DONE]" or not line.startswith(b"data: "):
                    continue
                chunk = json.loads(event)
                if "error" in chunk:
                    raise ResumeFailed(chunk["error"]["message"])
                if text := "".join(choice["text"] for choice in chunk["choices"]):
                    yield time.monotonic(), text

    def stop(self) -> float:
        """Send SIGTERM; the seconds until it has ended.

        Raises:
            ResumeFailed: it does not end, or not with 0.
        """
        started_at = time.monotonic()
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ResumeFailed("the service did not end after SIGTERM") from None
        if code:
            raise ResumeFailed(f"the service ended with exit code {code} after SIGTERM")
        return time.monotonic() - started_at

    def close(self) -> None:
        """End it, if it has not ended; its worker ends with it."""
        self._process.kill()
        self._process.wait()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self._port, timeout=ANSWER_TIMEOUT_S)


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def make_figure(name: str, value_ms: float) -> Figure:
    """A time in milliseconds."""
    return Figure(section=SECTION, name=name, value=round(value_ms, 1), unit="ms")
