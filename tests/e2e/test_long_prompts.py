"""Prompts far beyond the context are refused, while all other requests are served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TIMEOUT_S = 180.0
LONG = "the quick brown fox jumps over the lazy dog " * 100_000

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "words": (CHAT, {"messages": [{"role": "user", "content": LONG}]}),
    "one letter": (CHAT, {"messages": [{"role": "user", "content": "b" * 15_000_000}]}),
    "several answers": (
        CHAT,
        {"messages": [{"role": "user", "content": LONG[:600_000]}], "n": 128},
    ),
    "many messages": (CHAT, {"messages": HELLO * 20_000}),
    "a list": (COMPLETIONS, {"prompt": [LONG[:70_000]] * 64}),
    "echo": (COMPLETIONS, {"prompt": LONG, "echo": True}),
    "token ids": (COMPLETIONS, {"prompt": [5] * 1_000_000}),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_long_prompt_is_refused_and_delays_no_other_request(demo: Daemon, case: str) -> None:
    path, fields = CASES[case]
    body = {"model": "default", "max_tokens": 2, **fields}
    small = {"model": "default", "max_tokens": 2, "messages": HELLO}
    with httpx.Client(base_url=demo.url, timeout=TIMEOUT_S) as http, ThreadPoolExecutor(1) as pool:
        pid = http.get("/health").json()["worker"]["pid"]
        refused = pool.submit(httpx.post, demo.url + path, json=body, timeout=TIMEOUT_S)
        statuses = [http.post(CHAT, json=small).status_code]
        while not refused.done():
            statuses.append(http.post(CHAT, json=small).status_code)
        assert http.get("/health").json()["worker"]["pid"] == pid
    assert set(statuses) == {200}
    error = refused.result().json()["error"]
    assert refused.result().status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == ("messages" if path == CHAT else "prompt")


def test_the_preparation_of_prompts_is_measured(demo: Daemon) -> None:
    with httpx.Client(base_url=demo.url, timeout=TIMEOUT_S) as http:
        answer = http.post(CHAT, json={"model": "default", "messages": HELLO})
        assert answer.status_code == 200
        assert http.get("/health").json()["requests"]["preparing"] == 0
        names = {line.split("{")[0] for line in http.get("/metrics").text.splitlines()}
    assert {
        "mlxd_sequences_preparing",
        "mlxd_memory_preparation_bytes",
        "mlxd_preparation_time_seconds_total",
        "mlxd_preparation_size_bytes_total",
    } <= {name.split(" ")[0] for name in names}
