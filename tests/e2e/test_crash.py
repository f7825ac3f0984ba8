"""A worker crash is a pause: every answer resumes where it stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.oracle import decode, greedy_tokens, text_tokens

TOKENS = 600
PROMPTS = [f"Prompt number {n}" for n in range(6)]


PENALISED: list[dict[str, Any]] = [
    {"frequency_penalty": 1.0},
    {"presence_penalty": 1.5, "temperature": 1, "seed": 1},
    {"repetition_penalty": 1.2, "logit_bias": {"300": 3}},
    {"frequency_penalty": -0.2, "temperature": 0.7, "top_p": 0.9, "seed": 2},
    {"min_tokens": 300, "ignore_eos": True, "temperature": 1, "min_p": 0.05, "seed": 3},
    {"repetition_penalty": 0.9, "temperature": 0.8, "top_k": 20, "seed": 4},
]


async def complete(
    client: httpx.AsyncClient, prompt: str, texts: dict[str, str], extra: dict[str, Any]
) -> None:
    asked = {"model": "default", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **extra}
    answer = await client.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    texts[prompt] = answer.json()["choices"][0]["text"]


async def complete_all(
    daemon: Daemon, deaths: int, number: signal.Signals, extras: Sequence[dict[str, Any]] = ()
) -> dict[str, str]:
    """The answers to all prompts, while the worker dies this often under them."""
    texts: dict[str, str] = {}
    async with (
        plain_http.async_client(daemon.url) as client,
        anyio.create_task_group() as requests,
    ):
        for prompt, extra in zip(PROMPTS, extras or [{}] * len(PROMPTS), strict=True):
            requests.start_soon(complete, client, prompt, texts, extra)
        for death in range(deaths):
            await anyio.to_thread.run_sync(kill_worker, daemon, number, death + 1)
    return texts


def kill_worker(daemon: Daemon, number: signal.Signals, restarts: int) -> None:
    """End the worker once all requests run on it, and wait for the next one."""
    report = daemon.wait_until("requests.running", be=len(PROMPTS))
    os.kill(report["worker"]["pid"], number)
    daemon.wait_until("worker.restarts", be=restarts)


@pytest.mark.parametrize(
    ("number", "deaths"), [(signal.SIGKILL, 2), (signal.SIGSEGV, 1)], ids=["killed twice", "fault"]
)
def test_answers_are_the_same_as_without_the_workers_death(
    llama_path: Path, number: signal.Signals, deaths: int
) -> None:
    with running(llama_path) as daemon:
        texts = anyio.run(complete_all, daemon, deaths, number)
        report = daemon.wait_until("status", be="healthy")
    assert report["worker"]["restarts"] == deaths
    assert report["worker"]["last_exit"]["signal"] == number.name
    for prompt in PROMPTS:
        expected = greedy_tokens(llama_path, text_tokens(llama_path, prompt), TOKENS)
        assert texts[prompt] == decode(llama_path, expected)


def test_answers_with_penalties_and_seeds_are_the_same_too(llama_path: Path) -> None:
    with running(llama_path) as daemon:
        undisturbed = anyio.run(complete_all, daemon, 0, signal.SIGKILL, PENALISED)
        texts = anyio.run(complete_all, daemon, 2, signal.SIGKILL, PENALISED)
    assert texts == undisturbed
    assert len(set(texts.values())) == len(PROMPTS)


def test_a_worker_that_is_gone_is_told_by_health_and_comes_back(llama_path: Path) -> None:
    with running(llama_path) as daemon:
        os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
        gone: list[tuple[int, str]] = []

        def is_restarting() -> bool:
            response = plain_http.get(f"{daemon.url}/health")
            gone.append((response.status_code, response.json()["status"]))
            return gone[-1][1] == "restarting"

        daemon.wait_for(is_restarting)
        assert gone[-1][0] == 503
        asked = {"model": "default", "prompt": "waits for the next worker", "max_tokens": 2}
        answer = plain_http.post(f"{daemon.url}/v1/completions", json=asked)
        assert answer.status_code == 200
        worker = daemon.health()["worker"]
        assert worker["restarts"] == 1
        assert worker["last_exit"]["reason"] == "signal SIGKILL"
