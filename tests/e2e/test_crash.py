"""A worker crash is a pause: every answer resumes where it stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.mortal import Mortal, mortal
from tests.oracle import decode, greedy_tokens, text_tokens

TOKENS = 240
PROMPTS = [f"Prompt number {n}" for n in range(6)]


PENALISED: list[dict[str, Any]] = [
    {"frequency_penalty": 1.0},
    {"presence_penalty": 1.5, "temperature": 1, "seed": 1},
    {"repetition_penalty": 1.2, "logit_bias": {"300": 3}},
    {"frequency_penalty": -0.2, "temperature": 0.7, "top_p": 0.9, "seed": 2},
    {"min_tokens": 180, "ignore_eos": True, "temperature": 1, "min_p": 0.05, "seed": 3},
    {"repetition_penalty": 0.9, "temperature": 0.8, "top_k": 20, "seed": 4},
]


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Mortal]:
    with mortal(llama_path) as dying:
        yield dying


async def complete(
    client: httpx.AsyncClient, prompt: str, texts: dict[str, str], extra: dict[str, Any]
) -> None:
    asked = {"model": "default", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **extra}
    answer = await client.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    texts[prompt] = answer.json()["choices"][0]["text"]


async def complete_all(daemon: Daemon, extras: Sequence[dict[str, Any]] = ()) -> dict[str, str]:
    """The answers to all prompts, asked for at once."""
    texts: dict[str, str] = {}
    async with (
        plain_http.async_client(daemon.url) as client,
        anyio.create_task_group() as requests,
    ):
        for prompt, extra in zip(PROMPTS, extras or [{}] * len(PROMPTS), strict=True):
            requests.start_soon(complete, client, prompt, texts, extra)
    return texts


@pytest.mark.parametrize(
    ("number", "deaths"),
    [
        pytest.param(signal.SIGKILL, (360, 540), id="killed twice"),
        pytest.param(signal.SIGSEGV, (600,), id="fault", marks=pytest.mark.long),
    ],
)
def test_answers_are_the_same_as_without_the_workers_death(
    own: Mortal, llama_path: Path, number: signal.Signals, deaths: tuple[int, ...]
) -> None:
    before = own.restarts()
    own.end_after(*deaths, number=number)
    texts = anyio.run(complete_all, own.daemon)
    report = own.daemon.wait_until("status", be="healthy")
    assert report["worker"]["restarts"] == before + len(deaths)
    assert report["worker"]["last_exit"]["signal"] == number.name
    for prompt in PROMPTS:
        expected = greedy_tokens(llama_path, text_tokens(llama_path, prompt), TOKENS)
        assert texts[prompt] == decode(llama_path, expected)


def test_answers_with_penalties_and_seeds_are_the_same_too(own: Mortal) -> None:
    undisturbed = anyio.run(complete_all, own.daemon, PENALISED)
    before = own.restarts()
    own.end_after(360, 540)
    texts = anyio.run(complete_all, own.daemon, PENALISED)
    assert own.restarts() == before + 2
    assert texts == undisturbed
    assert len(set(texts.values())) == len(PROMPTS)


def test_a_worker_that_is_gone_is_told_by_health_and_comes_back(own: Mortal) -> None:
    daemon = own.daemon
    before = daemon.wait_until("status", be="healthy")["worker"]
    with ThreadPoolExecutor(1) as client:
        with own.held():
            os.kill(before["pid"], signal.SIGKILL)
            daemon.wait_until("status", be="restarting")
            assert plain_http.get(f"{daemon.url}/health").status_code == 503
            asked = {"model": "default", "prompt": "waits for the next worker", "max_tokens": 2}
            answer = client.submit(plain_http.post, f"{daemon.url}/v1/completions", json=asked)
            daemon.wait_until("requests.waiting", be=1)
        assert answer.result().status_code == 200
    worker = daemon.health()["worker"]
    assert worker["restarts"] == before["restarts"] + 1
    assert worker["last_exit"]["reason"] == "signal SIGKILL"
