"""What the spans of a generation say, and what they leave out."""

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


class Traced:
    """Spans that are kept."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self._spans = Spans(self.provider.get_tracer("test"))

    def of(self, record: RequestRecord) -> list[ReadableSpan]:
        self._spans.observe(record)
        return list(self._kept.get_finished_spans())


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


def test_a_request_that_generates_nothing_has_no_spans_here(traced: Traced) -> None:
    record = RequestRecord()
    record.end(scope("/v1/models"))
    assert traced.of(record) == []


def test_the_phases_last_as_long_as_the_worker_said(traced: Traced) -> None:
    spans = {span.name: span for span in traced.of(finished_record())}
    lengths = {
        name: round(((span.end_time or 0) - (span.start_time or 0)) / 1e6)
        for name, span in spans.items()
        if name != "chat m"
    }
    assert lengths == {"queue": 10, "prefill": 20, "decode": 30}
    assert spans["queue"].end_time == spans["prefill"].start_time


def test_a_failure_is_told_by_its_code(traced: Traced) -> None:
    record = RequestRecord()
    record.ask("chat", "m", [chat_submit()], stream=False)
    record.fail(WorkerCrashed("words"))
    record.end(scope())
    [span] = traced.of(record)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "worker_crashed"
    assert not span.status.is_ok
    assert "words" not in span.to_json()


def test_sampling_is_told_as_it_was_asked_for() -> None:
    told = attributes_of(finished_record())
    assert told["gen_ai.request.seed"] == 7
    assert told["gen_ai.request.stop_sequences"] == ["."]
    assert told["gen_ai.usage.input_tokens"] == 12
    assert "gen_ai.request.top_k" not in told


def test_content_is_told_only_where_the_record_keeps_it() -> None:
    assert "gen_ai.input.messages" not in attributes_of(finished_record())
    told = attributes_of(finished_record(keeps_content=True))
    assert json.loads(told["gen_ai.output.messages"])[0]["parts"][0]["content"] == "world"


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
def test_every_kind_of_prompt_has_the_conventions_shape(
    prompt: Prompt, messages: list[object]
) -> None:
    record = RequestRecord(keeps_content=True)
    record.ask("chat", "m", [make_submit(1, prompt)], stream=False)
    assert json.loads(attributes_of(record)["gen_ai.input.messages"]) == messages
