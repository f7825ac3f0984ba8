"""GET /metrics of a real service, as Prometheus and the dashboard use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.faulty import Asked, faulty

TOKENS = 12
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Daemon]:
    """A service that has answered one request, and refused one."""
    with running(llama_path) as daemon:
        body = {"model": "default", "prompt": "x", "max_tokens": TOKENS, "temperature": 0}
        url = f"{daemon.url}/v1/completions"
        plain_http.post(url, json=body)
        plain_http.post(url, json=body | {"max_tokens": -1})
        yield daemon


def values(daemon: Daemon) -> dict[str, float]:
    """Every sample by its name; those of one name added up."""
    text = plain_http.get(f"{daemon.url}/metrics").text
    found: dict[str, float] = {}
    for family in parse_text(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_an_answer_is_counted(own: Daemon) -> None:
    found = values(own)
    assert found["mlxd_output_tokens_total"] == TOKENS
    assert found["gen_ai_server_request_duration_seconds_count"] == 1
    assert found["gen_ai_server_time_to_first_token_seconds_count"] == 1
    assert found["gen_ai_server_time_per_output_token_seconds_count"] == 1
    assert found["http_server_request_duration_seconds_count"] >= 2
    assert found["mlxd_worker_up"] == 1
    assert found["mlxd_memory_active_bytes"] > 0
    assert found["mlxd_worker_steps_total"] >= TOKENS
    assert found["mlxd_sequences_preempted_total"] == found["mlxd_recomputed_tokens_total"] == 0


def test_prompt_tokens_found_in_the_cache_are_counted(own: Daemon) -> None:
    before = values(own)
    body = {"model": "default", "prompt": [7] * 300, "max_tokens": 2, "temperature": 0}
    for _ in range(2):
        plain_http.post(f"{own.url}/v1/completions", json=body)
    after = values(own)
    grown = {name: after[name] - before[name] for name in before if name in after}
    assert grown["mlxd_prompt_tokens_total"] == 600
    assert 200 < grown["mlxd_prompt_cached_tokens_total"] <= 300


def test_a_restart_is_counted_and_the_resumed_answer_as_one() -> None:
    with faulty() as daemon:
        url = f"{daemon.url}/v1/completions"
        asked = Asked("[die 5]")
        answer = plain_http.post(url, json=asked.body)
        assert answer.json()["choices"][0]["text"] == asked.expected
        found = values(daemon)
        [told] = plain_http.get(f"{daemon.url}/status").json()["recent"]
    assert (told["restarts"], told["failed"]) == (1, False)
    assert found["mlxd_worker_restarts_total"] == 1
    assert found["mlxd_output_tokens_total"] == asked.tokens
    assert found["gen_ai_server_request_duration_seconds_count"] == 1


def test_openmetrics_is_spoken_where_it_is_asked_for(own: Daemon) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = plain_http.get(f"{own.url}/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert "mlxd_worker_up" in [family.name for family in families]


def metrics_of(expression: str) -> set[str]:
    """The metrics that a PromQL expression names: whatever is neither function nor label."""
    expression = re.sub(r"^label_values\((.*),[^,]*\)$", r"\1", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without)\s*\([^)]*\)|\"[^\"]*\"", "", expression)
    return set(re.findall(r"\b(?:mlxd|gen_ai|http|process)_\w+\b", bare))


def expressions(node: object) -> Iterator[str]:
    """Every expression in a dashboard, queries of variables too."""
    match node:
        case dict():
            for name, value in node.items():
                if name in ("expr", "query") and isinstance(value, str):
                    yield value
                else:
                    yield from expressions(value)
        case list():
            for item in node:
                yield from expressions(item)


def test_every_metric_that_the_dashboard_names_is_there(own: Daemon) -> None:
    named = set().union(*map(metrics_of, expressions(msgspec.json.decode(DASHBOARD.read_bytes()))))
    assert len(named) > 15
    assert named - set(values(own)) == set()


def test_the_dashboards_panels_do_not_overlap_and_each_has_a_name_and_a_query() -> None:
    panels = msgspec.json.decode(DASHBOARD.read_bytes())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or panel["targets"]
