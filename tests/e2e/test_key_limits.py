"""Limits of one API key, which do not affect other keys."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from service.app import list_operations
from service.openapi.operation import Operation
from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.embedders import configure, table
from tests.e2e.faulty import faulty
from tests.e2e.keys import KEYS, NAMED, PLAIN, add_key, bearer
from tests.e2e.wire import completion
from tests.service.parts import make_parts

ASKED = {"model": "fake", "prompt": "x"}


def test_a_key_may_have_so_many_requests_at_once_and_others_are_not_concerned(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.json"
    narrow = add_key(path, "narrow", "--max-concurrent", "1")
    wide = add_key(path, "wide")
    with faulty("--keys-file", str(path)) as daemon:

        def post(key: str, **more: Any) -> httpx.Response:
            asked = completion(tokens=2, **more)
            return plain_http.post(f"{daemon.url}/v1/completions", json=asked, headers=bearer(key))

        with stream(daemon, narrow) as response:
            assert response.headers["x-ratelimit-limit-requests"] == "1"
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
            refused = post(narrow)
            error = refused.json()["error"]
            assert refused.status_code == 429
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert refused.headers["x-ratelimit-reset-requests"] == "1s"
            assert plain_http.get(f"{daemon.url}/v1/models", headers=bearer(narrow)).is_success
            other = post(wide)
            assert other.is_success
            assert not any(name.startswith("x-ratelimit") for name in other.headers)
        daemon.wait_for(lambda: post(narrow).is_success)
        # A request that is refused gives its place back, too.
        assert post(narrow, best_of=99).status_code == 400
        assert post(narrow).is_success


@contextlib.contextmanager
def stream(daemon: Daemon, key: str) -> Iterator[httpx.Response]:
    """A stream that has begun, and goes on until the block ends."""
    asked = completion(tokens=10**5, stream=True)
    url = f"{daemon.url}/v1/completions"
    with plain_http.stream("POST", url, json=asked, headers=bearer(key)) as response:
        lines = response.iter_lines()
        next(lines)
        yield response
        # Until here: without its reader the client would have left.
        del lines


def test_a_key_whose_tokens_are_used_up_waits_for_more() -> None:
    limit = 60
    # A second brings one token, in which the fake worker makes hundreds: whatever else the
    # machine does, what the second answer takes is not brought back while it is made.
    first_tokens, second_tokens = limit - 10, 20 * limit
    with faulty("--key-tokens-per-minute", str(limit), environ=KEYS) as daemon:

        def post(key: str, tokens: int) -> httpx.Response:
            asked = {**ASKED, "max_tokens": tokens}
            return plain_http.post(f"{daemon.url}/v1/completions", json=asked, headers=bearer(key))

        began_at = time.monotonic()
        first = post(NAMED, first_tokens)
        used = first.json()["usage"]["total_tokens"]
        assert first_tokens < used < limit
        assert first.headers["x-ratelimit-limit-tokens"] == str(limit)
        assert limit - used <= int(first.headers["x-ratelimit-remaining-tokens"]) <= limit
        second = post(NAMED, second_tokens)
        assert second.is_success
        assert second.headers["x-ratelimit-remaining-tokens"] == "0"
        missing = used + second.json()["usage"]["total_tokens"] - limit
        refused = post(NAMED, 1)
        brought_s = time.monotonic() - began_at
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        # One token more than is missing admits a request.
        assert missing - brought_s <= int(refused.headers["retry-after"]) <= missing + 1
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert re.fullmatch(r"(\d+m)?\d+(\.\d)?s", refused.headers["x-ratelimit-reset-tokens"])
        assert post(PLAIN, 1).is_success
        with (
            openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=NAMED, max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            client.completions.create(model="fake", prompt="x", max_tokens=1)
        assert caught.value.code == "rate_limit_exceeded"


def test_of_drafted_tokens_a_key_spends_those_of_the_answer(llama_path: Path) -> None:
    limit = 600
    flags = ["--speculation", "on", "--key-tokens-per-minute", str(limit)]
    with running(llama_path, flags=flags, environ=KEYS) as daemon:
        url = f"{daemon.url}/v1/chat/completions"
        asked: dict[str, Any] = {
            "model": "default",
            "messages": [{"role": "user", "content": "Say a long thing about foxes"}],
            "max_tokens": 60,
            "temperature": 0,
            "ignore_eos": True,
        }
        told = plain_http.post(url, json={**asked, "logprobs": True}, headers=bearer(PLAIN)).json()
        tokens = [each["token"] for each in told["choices"][0]["logprobs"]["content"]]
        wrong = " wrong words, here and there"
        began_at, spent, drafted = time.monotonic(), 0, Counter[str]()
        # Wrong behind some tokens, and right behind a stop string.
        for right, stop in ((20, None), (35, None), (60, tokens[50])):
            content = "".join(tokens[:right]) + wrong
            body = {**asked, "prediction": {"type": "content", "content": content}, "stop": stop}
            reply = plain_http.post(url, json=body, headers=bearer(NAMED))
            usage = reply.json()["usage"]
            spent += usage["total_tokens"]
            drafted.update(usage["completion_tokens_details"])
            left = int(reply.headers["x-ratelimit-remaining-tokens"])
            brought = (time.monotonic() - began_at) * limit / 60
            assert limit - spent <= left <= limit - spent + brought
        assert drafted["accepted_prediction_tokens"] > 0
        assert drafted["rejected_prediction_tokens"] > 0


OPERATIONS = list_operations(make_parts())
PATHS = [(op, path.replace("{model}", "fake")) for op in OPERATIONS for path in op.paths]
OPEN_ROUTES = ("/", "/health", "/assets/{name}")


@pytest.fixture(scope="module")
def spent() -> Iterator[Daemon]:
    """A service whose key `alice` has no tokens left."""
    with faulty("--key-tokens-per-minute", "10", environ=KEYS) as daemon:
        asked = {**ASKED, "max_tokens": 2000}
        url = f"{daemon.url}/v1/completions"
        assert plain_http.post(url, json=asked, headers=bearer(NAMED)).is_success
        yield daemon


@pytest.mark.parametrize(("operation", "path"), PATHS, ids=[path for _, path in PATHS])
def test_every_route_of_the_table_needs_a_key_and_only_generation_needs_tokens(
    spent: Daemon, operation: Operation, path: str
) -> None:
    def status(headers: dict[str, str]) -> int:
        body: dict[str, Any] | None = {} if operation.method == "POST" else None
        url = f"{spent.url}{path}"
        answer = plain_http.request(operation.method, url, json=body, headers=headers)
        return answer.status_code

    if operation.path not in OPEN_ROUTES:
        for headers in ({}, bearer("wrong-key-000000001"), {"x-api-key": "wrong-key-000000001"}):
            assert status(headers) == 401
    for headers in (bearer(NAMED), {"x-api-key": NAMED}):
        assert (status(headers) == 429) == operation.spends_tokens
        assert operation.spends_tokens or status(headers) in (200, 400, 403, 404)
    if operation.kind != "other" and operation.method == "POST":
        assert status(bearer(PLAIN)) == 400


CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
# Each endpoint whose requests have a priority, and a request to it.
WITH_PRIORITY: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "x", "max_output_tokens": 2},
    "/v1/embeddings": {"input": "x", "model": "fake-embedding"},
    "/v1/rerank": {"query": "x", "documents": ["x"], "model": "fake-rerank"},
}


def test_a_key_bounds_the_priority_of_its_requests_on_every_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = {
        0: add_key(path, "plain"),
        -5: add_key(path, "urgent", "--priority", "-5"),
        5: add_key(path, "background", "--priority", "5"),
    }
    kinds = ("generation", "embedding", "rerank")
    tables = [table(f"fake-{kind}", tmp_path / kind, kind=f'"{kind}"') for kind in kinds]
    flags = [*configure(tmp_path, *tables), "--keys-file", str(path)]
    with faulty(*flags, source=None) as daemon:
        for endpoint, body in WITH_PRIORITY.items():
            for least, key in keys.items():
                for priority in (None, least, least - 1, 2**31):
                    asked = {"model": "fake-generation", **body, "priority": priority}
                    response = plain_http.post(
                        f"{daemon.url}{endpoint}", json=asked, headers=bearer(key)
                    )
                    allowed = priority in (None, least) or priority == 0
                    assert response.is_success == allowed, (endpoint, least, priority)
                    if not allowed and endpoint != "/v1/messages":
                        assert response.json()["error"]["param"] == "priority"
                    if not allowed:
                        assert "priority" in response.json()["error"]["message"]
