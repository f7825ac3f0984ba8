"""What a collector receives from a real service, and a service whose collector does not answer."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.collector import Collector, attributes, collecting, silent
from tests.e2e.daemon import Daemon, free_port, running
from tests.e2e.faulty import faulty

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "xylophone"
TOKENS = 24
STREAMED: dict[str, Any] = {
    "model": "default",
    "stream": True,
    "temperature": 0,
    "max_tokens": TOKENS,
    "messages": [{"role": "user", "content": SECRET}],
}
SIGNALS = ("traces", "metrics", "logs")
PHASES = ("preparation", "queue", "prefill", "decode")


def chat(daemon: Daemon, **changes: Any) -> httpx.Response:
    body = STREAMED | changes
    headers = {"traceparent": PARENT}
    url = f"{daemon.url}/v1/chat/completions"
    return plain_http.post(url, json=body, headers=headers)


@pytest.fixture(scope="module")
def told(llama_path: Path) -> Iterator[Collector]:
    """What one streamed answer, and a look at the health, left behind in a collector."""
    with collecting() as collector:
        with running(llama_path, environ=collector.environ) as daemon:
            assert chat(daemon).text.endswith("[DONE]\n\n")
            daemon.health()
        yield collector


def test_an_answer_is_a_trace_of_six_spans_however_many_chunks_it_streams(told: Collector) -> None:
    spans = told.spans()
    assert set(spans) == {"POST /v1/chat/completions", "chat tiny-llama", *PHASES}
    generation = spans["chat tiny-llama"]
    assert all(spans[phase].parent_span_id == generation.span_id for phase in PHASES)
    assert all(span.trace_id.hex() == TRACE for span in spans.values())


def test_the_callers_trace_goes_on_from_its_span_to_the_phases(told: Collector) -> None:
    spans = told.spans()
    request = spans["POST /v1/chat/completions"]
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert spans["chat tiny-llama"].parent_span_id == request.span_id


def test_the_phases_lie_one_after_the_other_within_their_generation(told: Collector) -> None:
    spans = told.spans()
    whole = spans["chat tiny-llama"]
    times = [whole.start_time_unix_nano]
    for phase in PHASES:
        times += [spans[phase].start_time_unix_nano, spans[phase].end_time_unix_nano]
    times.append(whole.end_time_unix_nano)
    assert times == sorted(times)
    assert spans["decode"].end_time_unix_nano > spans["decode"].start_time_unix_nano


def test_a_generation_is_described_by_the_conventions(told: Collector) -> None:
    described = attributes(told.spans()["chat tiny-llama"])
    assert described["gen_ai.operation.name"] == "chat"
    assert described["gen_ai.provider.name"] == "mlxd"
    assert described["gen_ai.request.model"] == described["gen_ai.response.model"] == "tiny-llama"
    assert described["gen_ai.request.max_tokens"] == TOKENS
    assert described["gen_ai.request.temperature"] == 0
    assert described["gen_ai.response.finish_reasons"] == ["length"]
    assert described["gen_ai.response.id"].startswith("chatcmpl-")
    assert described["gen_ai.usage.output_tokens"] == TOKENS
    assert described["gen_ai.usage.input_tokens"] > 0
    assert described["gen_ai.response.time_to_first_chunk"] > 0


def test_the_metrics_are_exported_too(told: Collector) -> None:
    assert {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "http.server.request.duration",
        "mlxd.worker.steps",
        "mlxd.worker.restarts",
    } <= told.metrics()


def test_the_log_line_of_a_request_is_exported_with_its_trace(told: Collector) -> None:
    [line] = [record for record in told.logs() if record.body.string_value.endswith("200 length")]
    assert line.trace_id.hex() == TRACE
    assert attributes(line)["request"]["completion_tokens"] == TOKENS


def test_neither_prompt_nor_answer_is_exported_unless_asked_for(told: Collector) -> None:
    assert SECRET.encode() not in told.raw
    assert b"messages" not in told.raw


def test_prompt_and_answer_are_exported_where_that_is_asked_for(llama_path: Path) -> None:
    with collecting() as collector:
        flags = ["--record-content", "on"]
        with running(llama_path, flags=flags, environ=collector.environ) as daemon:
            answer = chat(daemon, stream=False).json()["choices"][0]["message"]["content"]
        described = attributes(collector.spans()["chat tiny-llama"])
    assert json.loads(described["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    ]
    [message] = json.loads(described["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": answer}]
    assert message["finish_reason"] == "length"


# ---------------------------------------------------------------- a collector that is dead

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_METRIC_EXPORT_INTERVAL": "50"}


def serves_and_stops(environ: Mapping[str, str]) -> str:
    """Answers while it exports all the time, and ends with all still to export."""
    with faulty(environ={**QUICK, **environ}) as daemon:
        for _ in range(10):
            assert chat(daemon).text.endswith("[DONE]\n\n")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    # Once a minute and signal, however often it is tried.
    assert daemon.output.count("Failed to export") <= len(SIGNALS)
    return daemon.output


def test_a_collector_that_is_not_there_neither_slows_nor_holds_the_service() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    serves_and_stops({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})


def test_a_collector_that_never_answers_neither_slows_nor_holds_the_service() -> None:
    with silent() as environ:
        output = serves_and_stops(environ)
    # It did not wait for the answers: that is logged.
    assert "could not be exported" in output


def test_a_protocol_that_is_not_spoken_is_told_and_stops_nothing() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    with faulty(environ=environ) as daemon:
        assert chat(daemon).status_code == 200
        daemon.wait_line("OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not supported")
