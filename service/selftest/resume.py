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
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}
KILL_AFTER_CHUNKS = 8

# A fast worker may have computed the shorter answer before the kill: then the longer one is tried.
ANSWER_TOKENS = (256, 1024)
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
        is_equal, first_token_s = compare_answers(service)
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


def compare_answers(service: ProbedService) -> tuple[bool, float]:
    """Whether the answer is the same when the worker is killed, and the seconds of the pause.

    Raises:
        ResumeFailed: each answer was complete before the kill.
    """
    for kills, tokens in enumerate(ANSWER_TOKENS, start=1):
        expected = "".join(text for _, text in service.stream(tokens))
        text, pause_s = stream_through_kill(service, tokens)
        if service.was_killed_busy(restarts=kills):
            return text == expected, pause_s
    raise ResumeFailed("the worker was not killed during the answer")


def stream_through_kill(service: ProbedService, tokens: int) -> tuple[str, float]:
    """An answer during which the worker is killed, and the longest wait for a text from there on.

    Texts that were sent before the kill may be read after it: the pause is the longest wait.
    """
    texts: list[str] = []
    read_at = pause_s = 0.0
    pid = service.worker_pid()
    for at, text in service.stream(tokens):
        if len(texts) >= KILL_AFTER_CHUNKS:
            pause_s = max(pause_s, at - read_at)
        texts.append(text)
        read_at = at
        if len(texts) == KILL_AFTER_CHUNKS:
            os.kill(pid, signal.SIGKILL)
    return "".join(texts), pause_s


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

    def was_killed_busy(self, restarts: int) -> bool:
        """Wait until the worker is restarted this often; whether the last exit ended a request.

        Raises:
            ResumeFailed: it is not restarted in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            worker = self.health()["worker"]
            if worker["restarts"] >= restarts and worker["pid"]:
                return bool(worker["last_exit"]["phase"] == "busy")
            time.sleep(POLL_S)
        raise ResumeFailed("the worker was not restarted")

    def stream(self, tokens: int) -> Iterator[tuple[float, str]]:
        """The texts of an answer of `tokens`, each with the time at which it was read.

        Raises:
            ResumeFailed: the answer is an error.
        """
        with contextlib.closing(self._connect()) as connection:
            headers = {"content-type": "application/json"}
            body = json.dumps({**REQUEST, "max_tokens": tokens})
            connection.request("POST", "/v1/completions", body, headers)
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
