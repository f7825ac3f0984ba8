"""Models that cannot share a batch are served: eight clients at once, and the state says why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.models import unbatched

TOKENS = 12
STREAM_TOKENS = 150
CLIENTS = 8
TOLERANCE = 0.01
PROMPTS = [[(7 * i + 3 * row) % 250 + 3 for i in range(5 + 13 * row)] for row in range(CLIENTS)]
ROWS = {"mamba": "decode", "llama4": "none", "gpt_bigcode": "none"}


@pytest.fixture(scope="module")
def service(llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("unbatched")
    paths = [unbatched.make(model_type, folder / model_type) for model_type in ROWS]
    with running(llama_path, *paths) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def api(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def make_body(model: str, prompt: list[int], tokens: int = TOKENS) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
    }


def ask(api: httpx.Client, model: str, prompt: list[int]) -> list[float]:
    """The log-probabilities of a greedy answer."""
    response = api.post("/v1/completions", json=make_body(model, prompt))
    assert response.status_code == 200, response.text
    logprobs: list[float] = response.json()["choices"][0]["logprobs"]["token_logprobs"]
    return logprobs


def expected(model_type: str, prompt: list[int]) -> list[float]:
    """The same by a plain loop over mlx-lm's model."""
    model = unbatched.make_model(model_type)
    cache = make_prompt_cache(model)
    inputs = mx.array(prompt)[None]
    logprobs: list[float] = []
    for _ in range(TOKENS):
        logits = model(inputs, cache=cache)[:, -1]
        inputs = mx.argmax(logits, axis=-1)[None]
        logprobs += (logits.max(-1) - mx.logsumexp(logits, axis=-1)).tolist()
    return logprobs


def ask_at_once(api: httpx.Client, model: str) -> list[list[float]]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(lambda prompt: ask(api, model, prompt), PROMPTS))


@pytest.mark.parametrize("model", ROWS)
def test_answers_at_once_and_again_are_those_of_mlx_lm_alone(api: httpx.Client, model: str) -> None:
    right = [pytest.approx(expected(model, prompt), abs=TOLERANCE) for prompt in PROMPTS]
    assert ask_at_once(api, model) == right
    assert [ask(api, model, prompt) for prompt in PROMPTS] == right
    assert api.get("/health").json()["worker"]["restarts"] == 0


def test_eight_clients_of_a_model_without_batches_stream_at_once(api: httpx.Client) -> None:
    lock = threading.Lock()
    begun: set[int] = set()
    begun_at_first_end: list[int] = []

    def stream(number: int) -> None:
        body = {**make_body("llama4", PROMPTS[number], STREAM_TOKENS), "stream": True}
        with api.stream("POST", "/v1/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    with lock:
                        begun.add(number)
        with lock:
            begun_at_first_end.append(len(begun))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(stream, range(CLIENTS)))
    assert begun_at_first_end[0] == CLIENTS


def test_the_state_says_what_is_not_shared_and_why(api: httpx.Client) -> None:
    for model in ROWS:
        ask(api, model, PROMPTS[0])
    models = {each["id"]: each for each in api.get("/v1/models").json()["data"]}
    listed = {each["id"]: each for each in api.get("/v1/capabilities").json()["data"]}
    shown = {each["id"]: each for each in api.get("/status").json()["models"]}
    for model, rows in ROWS.items():
        batching = models[model]["batching"]
        assert (batching["rows"], batching["unchecked"]) == (rows, [])
        assert "differ" in batching["reasons"][0] or "fails" in batching["reasons"][0]
        assert listed[model]["batching"] == shown[model]["batching"] == batching
    assert models["tiny-llama"]["batching"] == {
        "rows": "full",
        "prompt_cache": True,
        "prompt_slices": True,
        "reasons": [],
        "unchecked": [],
    }
