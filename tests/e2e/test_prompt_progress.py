"""A stream says how far a long prefill is, as llama.cpp does, or keeps its client alive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SLICE_TOKENS = 16
KEEP_ALIVE_S = 0.02
LONG = "the quick brown fox jumps over the lazy dog, and once more. " * 12


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Daemon]:
    """A service whose prompts take many slices, and whose streams are never silent for long."""
    flags = ["--prefill-step-tokens", str(SLICE_TOKENS), "--keep-alive-s", str(KEEP_ALIVE_S)]
    with running(llama_path, flags=flags) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def own_http(own: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(own.url) as client:
        yield client


def lines_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[str]:
    with http.stream("POST", path, json={"model": "default", "stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        return list(response.iter_lines())


def chunks_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = lines_of(http, path, body)
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def bodies(path: str, text: str) -> dict[str, Any]:
    if path == CHAT:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 3}
    return {"prompt": text, "max_tokens": 3}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_reports_its_prefill_from_the_start_to_the_end(
    own_http: httpx.Client, path: str
) -> None:
    body = {**bodies(path, f"{path} {LONG}"), "stream_options": {"include_usage": True}}
    chunks = chunks_of(own_http, path, {**body, "return_progress": True})
    usage = chunks[-1]["usage"]
    reports = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert {report["total"] for report in reports} == {usage["prompt_tokens"]}
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert {report["cache"] for report in reports} == {cached}
    done = [report["processed"] for report in reports]
    assert done[0] == cached
    assert done[-1] == usage["prompt_tokens"]
    assert done == sorted(set(done))
    assert len(done) > usage["mlxd"]["computed_tokens"] / SLICE_TOKENS / 8 + 1
    times = [report["time_ms"] for report in reports]
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == pytest.approx(usage["mlxd"]["prefill_ms"], abs=1)
    # All reports are before the first token, and clients may read the first choice of each.
    with_report = ["prompt_progress" in chunk for chunk in chunks]
    assert with_report == sorted(with_report, reverse=True)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks[:-1])


def test_a_cached_prompt_is_reported_as_such(own_http: httpx.Client) -> None:
    body = {**bodies(CHAT, f"again {LONG}"), "return_progress": True}
    chunks_of(own_http, CHAT, body)
    chunks = chunks_of(own_http, CHAT, body)
    reports = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    total = reports[0]["total"]
    assert [(each["cache"], each["processed"]) for each in reports] == [
        (total - 1, total - 1),
        (total - 1, total),
    ]


def test_of_several_answers_the_first_reports(own_http: httpx.Client) -> None:
    body = {**bodies(CHAT, f"several {LONG}"), "n": 3, "return_progress": True}
    chunks = chunks_of(own_http, CHAT, body)
    reporting = {c["choices"][0]["index"] for c in chunks if "prompt_progress" in c}
    assert reporting == {0}
    roles = [c["choices"][0]["delta"].get("role") for c in chunks]
    assert roles.count("assistant") == 3


def test_nothing_is_reported_unless_it_is_asked_for(own_http: httpx.Client) -> None:
    for path in (CHAT, COMPLETIONS):
        body = bodies(path, f"silent {path} {LONG}")
        assert not any("prompt_progress" in c for c in chunks_of(own_http, path, body))
        asked = {"model": "default", **body, "return_progress": True}
        answer = own_http.post(path, json=asked)
        assert answer.status_code == 200
        assert "prompt_progress" not in answer.json()


def test_the_official_client_reads_a_stream_with_reports(own: Daemon) -> None:
    with OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        streamed = client.chat.completions.stream(
            model="default",
            messages=[{"role": "user", "content": f"official {LONG}"}],
            max_tokens=4,
            extra_body={"return_progress": True},
        )
        with streamed as events:
            snapshots = [event.snapshot for event in events if event.type == "chunk"]
    message = snapshots[-1].choices[0].message
    assert message.role == "assistant"
    assert message.content
    with OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        reports = [
            getattr(chunk, "prompt_progress", None)
            for chunk in client.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": f"official again {LONG}"}],
                max_tokens=4,
                stream=True,
                extra_body={"return_progress": True},
            )
        ]
    assert reports[0] is not None


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_another_value_is_refused_by_name(own_http: httpx.Client, value: object) -> None:
    body = {"model": "default", **bodies(CHAT, "Hi"), "return_progress": value}
    refused = own_http.post(CHAT, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "return_progress")


LONGER = LONG * 4
SILENT = {
    "/v1/messages": (
        {"messages": [{"role": "user", "content": f"1 {LONGER}"}], "max_tokens": 3},
        "event: ping",
        "event: content_block_start",
    ),
    "/v1/responses": (
        {"input": f"2 {LONGER}", "max_output_tokens": 16},
        "event: response.in_progress",
        "event: response.output_item.added",
    ),
}


@pytest.mark.parametrize("path", SILENT)
def test_events_keep_a_client_alive_during_a_long_prefill(
    own_http: httpx.Client, path: str
) -> None:
    body, sign, first = SILENT[path]
    lines = lines_of(own_http, path, body)
    # One comes at the start of each stream.
    assert lines[: lines.index(first)].count(sign) > 1


def test_the_status_shows_how_far_a_sequence_in_flight_is(
    own: Daemon, own_http: httpx.Client
) -> None:
    body = {"model": "default", "stream": True, "prompt": f"3 {LONGER}", "max_tokens": 500}
    with own_http.stream("POST", COMPLETIONS, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("data: {"))
        with plain_http.client(own.url) as other:
            [shown] = other.get("/status").json()["in_flight"]
        assert shown["phase"] == "decode"
        assert shown["completion_tokens"] > 0
        assert shown["prompt_tokens"] == shown["ready_tokens"] > SLICE_TOKENS
    own.wait_until("requests.running", be=0)
    assert own_http.get("/status").json()["in_flight"] == []


def test_several_in_flight_are_shown_with_their_phases(own: Daemon) -> None:
    phases: set[str] = set()
    partly = False
    body = {"model": "default", "stream": True, "max_tokens": 20}
    with plain_http.client(own.url) as one, plain_http.client(own.url) as other:
        asked = {**body, "prompt": f"4 {LONGER}", "return_progress": True}
        with one.stream("POST", COMPLETIONS, json=asked) as response:
            for line in response.iter_lines():
                if '"prompt_progress"' in line:
                    for shown in other.get("/status").json()["in_flight"]:
                        phases.add(shown["phase"])
                        ready, total = shown["ready_tokens"], shown["prompt_tokens"]
                        partly |= total is not None and 0 < ready < total
    assert "prefill" in phases
    assert partly
