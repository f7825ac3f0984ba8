"""Raw bytes to and from a service's port, for what no client library sends."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from tests.e2e.daemon import Daemon
from tests.waiting import HANG_S

# So little room that a client which does not read is soon noticed.
DEAF_BUFFER_BYTES = 4096
COMPLETIONS = "/v1/completions"
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(daemon: Daemon, *, deaf: bool = False) -> socket.socket:
    """A connection; a deaf one is for sending only."""
    client = socket.socket()
    client.settimeout(HANG_S)
    if deaf:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DEAF_BUFFER_BYTES)
    client.connect(("127.0.0.1", daemon.port))
    return client


def head(method: str, path: str, *headers: str) -> bytes:
    """A request's line and headers."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def post(asked: dict[str, Any], path: str = COMPLETIONS) -> bytes:
    """A whole request."""
    body = json.dumps(asked).encode()
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return head("POST", path, *headers) + body


def completion(prompts: int = 1, tokens: int = 4000, **more: Any) -> dict[str, Any]:
    """A request that takes its time."""
    prompt = [f"Prompt {n}" for n in range(prompts)]
    return {"model": "default", "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}


def read_end(client: socket.socket) -> bytes:
    """All until the service closes; a reset closes too."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    return data


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one response with a Content-Length."""
    with client.makefile("rb", buffering=0) as stream:
        status = int(stream.readline().split()[1])
        lines = iter(lambda: stream.readline().decode().strip(), "")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = b""
        while len(body) < int(headers["content-length"]):
            body += stream.read(int(headers["content-length"]) - len(body)) or b""
    return status, headers, body
