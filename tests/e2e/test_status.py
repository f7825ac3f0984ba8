"""GET /status of a real service: seconds, models and latest requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running

TOKENS = 30


@pytest.fixture(scope="module")
def own_daemon(llama_path: Path) -> Iterator[Daemon]:
    """A service that has answered one request."""
    with running(llama_path) as daemon:
        body = {"model": "default", "prompt": "xylophone", "max_tokens": TOKENS, "temperature": 0}
        plain_http.post(f"{daemon.url}/v1/completions", json=body)
        yield daemon


def status(daemon: Daemon, query: str = "") -> httpx.Response:
    return plain_http.get(f"{daemon.url}/status{query}")


def test_the_seconds_count_every_token(own_daemon: Daemon) -> None:
    report: dict[str, Any] = status(own_daemon).json()
    assert sum(second["tokens"] for second in report["seconds"]) == TOKENS
    assert sum(second["first_tokens"] for second in report["seconds"]) == 1
    assert max(second["most_running"] for second in report["seconds"]) == 1
    assert report["window_s"] >= 60


def test_only_seconds_after_the_parameter_are_returned(own_daemon: Daemon) -> None:
    at = status(own_daemon).json()["seconds"][-1]["at"]
    assert status(own_daemon, f"?after={at}").json()["seconds"] == []


def test_the_latest_request_has_timings_and_no_text(own_daemon: Daemon) -> None:
    response = status(own_daemon)
    [request] = response.json()["recent"]
    assert (request["operation"], request["model"]) == ("text_completion", "tiny-llama")
    assert (request["finish"], request["failed"], request["status"]) == ("length", False, 200)
    assert request["completion_tokens"] == TOKENS
    assert request["total_ms"] >= request["decode_ms"] > 0
    assert request["first_token_ms"] > 0
    assert "xylophone" not in response.text


def test_the_models_and_the_health_are_reported(own_daemon: Daemon) -> None:
    report = status(own_daemon).json()
    [model] = report["models"]
    assert (model["id"], model["loaded"]) == ("tiny-llama", True)
    assert model["weight_bytes"] > 0
    assert report["health"]["status"] == "healthy"


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "1e9", "9" * 40, "%00"])
def test_an_invalid_time_is_refused(own_daemon: Daemon, after: str) -> None:
    response = status(own_daemon, f"?after={after}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "after"


def test_capabilities_show_the_settings_in_force_and_what_changes_nothing() -> None:
    flags = [
        "--max-running",
        "3",
        "--max-waiting",
        "5",
        "--kv-quantisation",
        "8bit",
        "--log-files",
        "2",
    ]
    with running(flags=flags) as daemon:
        shown = plain_http.get(f"{daemon.url}/v1/capabilities").json()["settings"]
        assert (shown["slots"]["running"], shown["slots"]["in_flight"]) == (3, 8)
        assert shown["memory"]["limit_bytes"] > 0
        assert [each["name"] for each in shown["without_effect"]] == ["log_files"]
        assert (shown["kv_quantisation"]["asked"], shown["kv_quantisation"]["on"]) == ("8bit", True)
        assert "log_files has no effect" in daemon.output
