"""A request that kills workers is refused when it is sent again, by every API in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import ADMIN, KEYS, NAMED, bearer
from tests.waiting import wait_for


class Api(NamedTuple):
    """One API: its path, and the names of its limit of tokens and of the type of its errors."""

    path: str
    limit: str
    error_type: str = "server_error"

    def body(self, prompt: str) -> dict[str, Any]:
        """A request."""
        message = [{"role": "user", "content": prompt}]
        field = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(self.path)
        asked = {field: prompt} if field else {"messages": message}
        return {"model": "fake", **asked, self.limit: 40}


APIS = [
    Api("/v1/chat/completions", "max_completion_tokens"),
    Api("/v1/completions", "max_tokens"),
    Api("/v1/responses", "max_output_tokens"),
    Api("/v1/messages", "max_tokens", "api_error"),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Daemon]:
    with faulty(environ=KEYS) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        client.headers.update(bearer(NAMED))
        yield client


def restarts(http: httpx.Client) -> int:
    """How many workers were started after another, once the last one serves."""
    wait_for(lambda: http.get("/health").json()["status"] == "healthy")
    found: int = http.get("/health").json()["worker"]["restarts"]
    return found


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
def test_what_killed_workers_as_a_stream_is_refused_whole_and_with_another_limit(
    http: httpx.Client, api: Api
) -> None:
    poison = api.body(f"[die 5 always] stream {api.path}")
    first = http.post(api.path, json={**poison, "stream": True})
    assert "crashed the worker" in first.text
    before = restarts(http)
    again = http.post(api.path, json={**poison, api.limit: 39})
    assert again.status_code == httpx.codes.BAD_REQUEST
    error = again.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error.get("code", "invalid_prompt") == "invalid_prompt"
    assert "crashed the worker" in error["message"]
    assert restarts(http) == before
    assert http.post(api.path, json=api.body("sound")).status_code == httpx.codes.OK


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
def test_what_killed_workers_whole_is_refused_as_a_stream_and_to_its_key_alone(
    service: Daemon, http: httpx.Client, api: Api
) -> None:
    poison = api.body(f"[die 5 always] whole {api.path}")
    first = http.post(api.path, json=poison)
    assert (first.status_code, first.json()["error"]["type"]) == (500, api.error_type)
    assert http.post(api.path, json={**poison, "stream": True}).status_code == 400
    with plain_http.client(service.url) as other:
        other.headers.update(bearer(ADMIN))
        assert other.post(api.path, json=poison).status_code == 500


def test_a_background_response_that_killed_workers_is_not_begun_again(http: httpx.Client) -> None:
    api = APIS[2]
    poison = api.body("[die 5 always] background")
    http.post(api.path, json={**poison, "background": True, "stream": True})
    before = restarts(http)
    again = http.post(api.path, json={**poison, "background": True})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "invalid_prompt")
    assert restarts(http) == before
