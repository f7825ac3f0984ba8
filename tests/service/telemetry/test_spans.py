"""The spans of a generation and their attributes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from protocol.messages import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from service.errors import WorkerCrashed
from service.requestlog.record import RequestRecord
from service.telemetry.spans import Spans, attributes_of
from tests.service.records import chat_submit, finished_record, make_submit, scope


class Tracing:
    """Creates spans and keeps them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._spans = Spans(self.provider.get_tracer("test"))

    def spans_of(self, record: RequestRecord) -> list[ReadableSpan]:
        self._spans.observe(record)
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    tracing = Tracing()
    yield tracing
    tracing.provider.shutdown()


def test_a_request_that_is_no_generation_has_no_spans(tracing: Tracing) -> None:
    record = RequestRecord()
    record.end(scope("/v1/models"))
    assert tracing.spans_of(record) == []


def test_the_spans_of_the_phases_have_the_durations_of_the_worker(tracing: Tracing) -> None:
    spans = {span.name: span for span in tracing.spans_of(finished_record())}
    durations_ms = {
        name: round(((span.end_time or 0) - (span.start_time or 0)) / 1e6)
        for name, span in spans.items()
        if name != "chat m"
    }
    assert durations_ms == {"queue": 10, "prefill": 20, "decode": 30}
    assert spans["queue"].end_time == spans["prefill"].start_time


def test_a_failed_generation_has_its_code_without_the_message(tracing: Tracing) -> None:
    record = RequestRecord()
    record.set_generation("chat", "m", [chat_submit()], stream=False)
    record.fail(WorkerCrashed("private"))
    record.end(scope())
    [span] = tracing.spans_of(record)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "worker_crashed"
    assert not span.status.is_ok
    assert "private" not in span.to_json()


def test_the_attributes_have_the_sampling_of_the_request() -> None:
    attributes = attributes_of(finished_record())
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.stop_sequences"] == ["."]
    assert attributes["gen_ai.usage.input_tokens"] == 12
    assert "gen_ai.request.top_k" not in attributes


def test_the_attributes_have_content_only_if_the_record_keeps_it() -> None:
    assert "gen_ai.input.messages" not in attributes_of(finished_record())
    attributes = attributes_of(finished_record(keeps_content=True))
    assert json.loads(attributes["gen_ai.output.messages"])[0]["parts"][0]["content"] == "world"


CALL = {"id": "c1", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        (TextPrompt("go"), [{"role": "user", "parts": [{"type": "text", "content": "go"}]}]),
        (TokenPrompt([1, 2]), [{"role": "user", "parts": [{"type": "text", "content": "1 2"}]}]),
        (
            ChatPrompt(
                [
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "4", "tool_call_id": "c1"},
                ]
            ),
            [
                {
                    "role": "assistant",
                    "parts": [{"type": "tool_call", "id": "c1", "name": "add", "arguments": "{}"}],
                },
                {
                    "role": "tool",
                    "parts": [{"type": "tool_call_response", "id": "c1", "response": "4"}],
                },
            ],
        ),
    ],
)
def test_every_kind_of_prompt_is_converted_to_the_conventions(
    prompt: Prompt, messages: list[object]
) -> None:
    record = RequestRecord(keeps_content=True)
    record.set_generation("chat", "m", [make_submit(1, prompt)], stream=False)
    assert json.loads(attributes_of(record)["gen_ai.input.messages"]) == messages
