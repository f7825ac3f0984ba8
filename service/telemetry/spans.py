"""The spans of a generation: one for it, with a child for each phase of its time.

They are created at the end, from the timings of the worker, so they cost nothing per token.
Names and attributes follow OpenTelemetry's semantic conventions for generative AI, as in
its package 0.66b2. Prompts and answers are recorded only if the record keeps them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from protocol.events import Finished
from protocol.messages import ChatPrompt, Prompt, TextPrompt
from protocol.units import MS_PER_S
from service.requestlog.record import RequestRecord
from service.telemetry.request_metrics import generation_attributes

# Attributes for which the conventions have no name.
REQUEST_ID = "mlxd.request.id"
KEY_NAME = "mlxd.key.name"
RESTARTS = "mlxd.worker.restarts"
# Where these took no time, they have no span.
RARE_PHASES = ("preparation", "load", "restart")

Attributes = dict[str, Any]
Json = dict[str, Any]


class Spans:
    """Creates the spans of each generation that ends, in the current trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def observe(self, record: RequestRecord) -> None:
        """Create the spans of a request that has ended."""
        if record.model is None:
            return
        span = self._tracer.start_span(
            f"{record.operation} {record.model}",
            # The conventions use this kind for a model that runs in the service itself.
            kind=SpanKind.INTERNAL,
            start_time=record.began_ns,
        )
        if span.is_recording():
            span.set_attributes(attributes_of(record))
            if record.error_code is not None:
                span.set_status(Status(StatusCode.ERROR, record.error_code))
            context = trace.set_span_in_context(span)
            for ended_at, finished in record.finished:
                self._add_phases(record, ended_at, finished, context)
        span.end(record.at_ns(record.ended_at))

    def _add_phases(
        self, record: RequestRecord, ended_at: float, finished: Finished, context: Context
    ) -> None:
        """Add a span per phase, one after the other; the last one ends at `ended_at`."""
        phases_ms = {
            "preparation": finished.preparation_ms,
            "load": finished.load_ms,
            "restart": finished.restart_ms,
            "queue": finished.queue_ms,
            "prefill": finished.prefill_ms,
            "decode": finished.decode_ms,
        }
        at = ended_at - sum(phases_ms.values()) / MS_PER_S
        for name, phase_ms in phases_ms.items():
            if not phase_ms and name in RARE_PHASES:
                continue
            span = self._tracer.start_span(name, context, start_time=record.at_ns(at))
            at += phase_ms / MS_PER_S
            span.end(record.at_ns(at))


def attributes_of(record: RequestRecord) -> Attributes:
    """The attributes of a generation, without those that are unknown."""
    attributes: Attributes = {
        **generation_attributes(record),
        gen_ai.GEN_AI_OUTPUT_TYPE: "text" if record.submits else None,
        gen_ai.GEN_AI_REQUEST_STREAM: record.stream,
        gen_ai.GEN_AI_RESPONSE_ID: record.answer_id,
        gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: [end.reason for _, end in record.finished] or None,
        gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: record.first_token_s,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: record.prompt_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: record.completion_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: record.cached_tokens or None,
        ERROR_TYPE: record.error_code,
        REQUEST_ID: record.id,
        KEY_NAME: record.key,
        RESTARTS: record.restarts or None,
        **_request_attributes(record),
        **(_content_attributes(record) if record.keeps_content and record.submits else {}),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _request_attributes(record: RequestRecord) -> Attributes:
    """The parameters of the request; they are the same for all its sequences.

    A request for vectors has no sequences.
    """
    if not record.submits:
        return {}
    submit = record.submits[0]
    sampling = submit.sampling
    # What the request leaves to the model is known to the worker only.
    set_by_request = {"temperature", "top_p"}.difference(sampling.unset)
    return {
        gen_ai.GEN_AI_REQUEST_MAX_TOKENS: submit.max_tokens,
        gen_ai.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature
        if "temperature" in set_by_request
        else None,
        gen_ai.GEN_AI_REQUEST_TOP_P: sampling.top_p if "top_p" in set_by_request else None,
        gen_ai.GEN_AI_REQUEST_TOP_K: sampling.top_k or None,
        gen_ai.GEN_AI_REQUEST_SEED: sampling.seed,
        gen_ai.GEN_AI_REQUEST_STOP_SEQUENCES: submit.stop or None,
    }


# ---------------------------------------------------------------- prompts and answers


def _content_attributes(record: RequestRecord) -> Attributes:
    messages = [message for submit in record.submits for message in _messages(submit.prompt)]
    reasons = {end.id: end.reason for _, end in record.finished}
    answers = [
        {"role": "assistant", "parts": [_text(text)], "finish_reason": reasons.get(id, "error")}
        for id, text in record.texts.items()
    ]
    return {
        gen_ai.GEN_AI_INPUT_MESSAGES: msgspec.json.encode(messages).decode(),
        gen_ai.GEN_AI_OUTPUT_MESSAGES: msgspec.json.encode(answers).decode(),
    }


def _messages(prompt: Prompt) -> list[Json]:
    match prompt:
        case ChatPrompt(messages):
            return [_message(message) for message in messages]
        case TextPrompt(text):
            return [{"role": "user", "parts": [_text(text)]}]
        case _:
            return [{"role": "user", "parts": [_text(" ".join(map(str, prompt.tokens)))]}]


def _message(message: Json) -> Json:
    """Convert a message from OpenAI's format to that of the conventions."""
    content = message.get("content")
    if message["role"] == "tool":
        id = message.get("tool_call_id")
        part = {"type": "tool_call_response", "id": id, "response": content}
        return {"role": "tool", "parts": [part]}
    parts = [_text(content)] if content else []
    parts += [
        {"type": "tool_call", "id": call.get("id"), **call["function"]}
        for call in message.get("tool_calls") or []
    ]
    return {"role": message["role"], "parts": parts}


def _text(content: Any) -> Json:
    return {"type": "text", "content": content}
