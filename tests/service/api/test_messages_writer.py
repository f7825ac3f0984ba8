"""The answers of messages, whole and as a stream, from the same events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import ArgumentsDelta, Event, Finished, Started, TextDelta, ToolCallStarted
from service.api.messages.format import MessagesFormat
from service.api.messages.request import MessagesRequest
from service.errors import WorkerUnavailable
from service.generation.answers import Answer
from service.generation.dialect import ResponseHeader
from service.schema.usage import Usage
from service.store.encoded_thinking import EncodedThinking

THINKING = EncodedThinking(lambda: b"k" * 32)
HEADER = ResponseHeader("msg_1", 0, "m", "fp", request_id="req_1")
STARTED = Started(1, prompt_tokens=9, cached_tokens=4)


def request(**fields: Any) -> MessagesRequest:
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "m", "max_tokens": 8, "messages": messages, **fields}
    return msgspec.convert(body, MessagesRequest)


def finished(reason: Any = "stop", **fields: Any) -> Finished:
    return Finished(
        id=1,
        reason=reason,
        prompt_tokens=9,
        completion_tokens=5,
        queue_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
        cached_tokens=4,
        reasoning_tokens=2,
        **fields,
    )


def text(text: str, kind: Any = "content") -> TextDelta:
    return TextDelta(1, text, [1], kind=kind)


def streamed(events: list[Event], **fields: Any) -> list[dict[str, Any]]:
    """The data of the events; each has its type as its name, too."""
    writer = MessagesFormat(THINKING).to_writer(request(**fields), HEADER)
    frames = b"".join(writer.encode(0, event) for event in [STARTED, *events])
    frames += writer.finish([event for event in events if isinstance(event, Finished)])
    found = []
    for frame in frames.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def whole(events: list[Event], **fields: Any) -> dict[str, Any]:
    answer = Answer()
    for event in [STARTED, *events]:
        answer.add(event)
    message = MessagesFormat(THINKING).to_response(
        request(**fields), HEADER, [answer], Usage(0, 0, 0)
    )
    body: dict[str, Any] = json.loads(msgspec.json.encode(message))
    return body


def collected(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a stream: they must not overlap, and have consecutive numbers."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
            is_open = True
        elif event["type"].startswith("content_block"):
            assert is_open
            assert event["index"] == len(blocks) - 1
            is_open = event["type"] != "content_block_stop"
            for key, value in event.get("delta", {}).items():
                key = "json" if key == "partial_json" else key
                if key != "type":
                    blocks[-1][key] += value
    assert not is_open
    return [without_json(block) for block in blocks]


def without_json(block: dict[str, Any]) -> dict[str, Any]:
    arguments = block.pop("json")
    if block["type"] == "tool_use":
        block["input"] = json.loads(arguments)
    return {key: value for key, value in block.items() if key != "id"}


def test_a_stream_is_framed_as_anthropics() -> None:
    events = streamed([text("Hel"), text("lo"), finished()])
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message = events[0]["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    assert message["usage"]["input_tokens"] == 5
    assert message["usage"]["cache_read_input_tokens"] == 4
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


CALL: list[Event] = [
    ToolCallStarted(1, 0, "f"),
    ArgumentsDelta(1, 0, '{"a"'),
    ArgumentsDelta(1, 0, ":1}"),
]


def test_thinking_text_and_calls_are_blocks_in_order() -> None:
    events = [text("Hm", "reasoning"), text("m.", "reasoning"), text(""), text("I add."), *CALL]
    for body in (
        whole([*events, finished("tool_calls")]),
        {"content": collected(streamed([*events, finished("tool_calls")]))},
    ):
        blocks = body["content"]
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
        assert [blocks[0]["thinking"], blocks[1]["text"]] == ["Hmm.", "I add."]
        assert (blocks[2]["name"], blocks[2]["input"]) == ("f", {"a": 1})


def test_omitted_thinking_is_in_the_signature_alone() -> None:
    events: list[Event] = [text("Hmm.", "reasoning"), text("Yes."), finished()]
    fields = {"thinking": {"type": "adaptive", "display": "omitted"}}
    for blocks in (whole(events, **fields)["content"], collected(streamed(events, **fields))):
        assert blocks[0]["thinking"] == ""
        decoded = THINKING.decode(blocks[0]["signature"])
        assert decoded is not None
        assert (decoded.model, decoded.text) == ("m", "Hmm.")
        assert blocks[1]["text"] == "Yes."


def test_an_unfinished_call_is_not_in_the_whole_answer() -> None:
    body = whole([text("So: "), *CALL[:2], finished("length")])
    assert [block["type"] for block in body["content"]] == ["text"]
    assert body["stop_reason"] == "max_tokens"
    parts = streamed([*CALL[:2], finished("length")])
    assert [part["type"] for part in parts[2:5]] == [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    ]


@pytest.mark.parametrize(
    ("end", "reason", "stop"),
    [
        (finished(), "end_turn", None),
        (finished(stopped_by="END"), "stop_sequence", "END"),
        (finished("tool_calls"), "tool_use", None),
        (finished("length"), "max_tokens", None),
        (finished("length", at_context=True), "model_context_window_exceeded", None),
    ],
)
def test_each_end_has_its_reason(end: Finished, reason: str, stop: str | None) -> None:
    body = whole([end])
    delta = streamed([end])[-2]["delta"]
    for found in (body, delta):
        assert (found["stop_reason"], found["stop_sequence"]) == (reason, stop)


def test_the_edits_of_a_request_that_has_some_are_answered() -> None:
    fields: dict[str, Any] = {"context_management": {"edits": []}}
    assert whole([finished()], **fields)["context_management"] == {"applied_edits": []}
    assert streamed([finished()], **fields)[-2]["context_management"] == {"applied_edits": []}
    assert "context_management" not in whole([finished()])


def test_a_failure_is_an_error_of_anthropics_shape() -> None:
    writer = MessagesFormat(THINKING).to_writer(request(), HEADER)
    frame = writer.fail(WorkerUnavailable("Gone.", code="draining")).decode()
    assert frame.startswith("event: error\ndata: ")
    assert json.loads(frame.partition("data: ")[2]) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Gone."},
        "request_id": "req_1",
    }


PIECES = st.one_of(
    st.builds(text, st.text(max_size=3), st.sampled_from(["content", "reasoning"])),
    st.just(None),
)


@given(st.lists(PIECES, max_size=12))
def test_a_stream_and_a_whole_answer_have_the_same_blocks(pieces: list[TextDelta | None]) -> None:
    events: list[Event] = []
    calls = 0
    for piece in pieces:
        if piece is not None:
            events.append(piece)
        else:
            events += [ToolCallStarted(1, calls, "f"), ArgumentsDelta(1, calls, '{"é": [1]}')]
            calls += 1
    events.append(finished())
    blocks = whole(events)["content"]
    assert collected(streamed(events)) == [
        {key: value for key, value in block.items() if key != "id"} for block in blocks
    ]
