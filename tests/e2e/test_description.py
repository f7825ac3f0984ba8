"""The OpenAPI document matches the endpoints of the service."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running

NO_ENDPOINT = "There is no endpoint"


def test_every_described_path_answers(http: httpx.Client) -> None:
    description = http.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    for path, methods in description["paths"].items():
        for method in methods:
            answer = http.request(method, path.replace("{model}", "default"))
            # What needs a body or a stored object is refused, but not for its path or its method.
            assert answer.status_code in (200, 400, 404), path
            assert NO_ENDPOINT not in answer.text
    assert NO_ENDPOINT in http.get("/v1/unknown").text


def test_unknown_fields_are_dropped_and_logged_where_a_setting_says_so(llama_path: Path) -> None:
    asked = {"model": "default", "prompt": "x", "max_tokens": 2, "made_up": 1}
    with running(llama_path, flags=["--unknown-fields", "warn"]) as daemon:
        assert complete(daemon, asked) == 200
        assert complete(daemon, {**asked, "best_of": 21}) == 400
    assert "made_up" in daemon.output


def complete(daemon: Daemon, asked: dict[str, object]) -> int:
    return plain_http.post(f"{daemon.url}/v1/completions", json=asked).status_code
