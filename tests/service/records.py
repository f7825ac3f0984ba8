"""Builds messages of the worker, and records of requests as the service makes them."""

from __future__ import annotations

from protocol.events import Finished, FinishReason, Started, TextDelta
from protocol.messages import (
    ChatPrompt,
    Prompt,
    Sampling,
    Submit,
    TextPrompt,
)
from protocol.stats import Memory, Stats
from service.requestlog.event_batch import count_events
from service.requestlog.record import RequestRecord

IDLE = Stats(running=0, waiting=0, memory=Memory(), device_ms=0.0, host_ms=0.0)


def make_submit(id: int, prompt: Prompt | None = None) -> Submit:
    """One sequence to generate, with the default sampling and seed 0."""
    return Submit(id=id, model="m", prompt=prompt or TextPrompt("x"), sampling=Sampling(0))


def make_finished(
    id: int,
    reason: FinishReason = "stop",
    *,
    prompt_tokens: int = 1,
    completion_tokens: int = 1,
    queue_ms: float = 0.0,
    prefill_ms: float = 0.0,
    decode_ms: float = 0.0,
) -> Finished:
    """The last event of a sequence."""
    return Finished(
        id=id,
        reason=reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        queue_ms=queue_ms,
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
    )


def chat_submit(content: str = "hello") -> Submit:
    """A conversation of one message, sampled greedily."""
    return Submit(
        id=1,
        model="m",
        prompt=ChatPrompt([{"role": "user", "content": content}]),
        sampling=Sampling(seed=7, temperature=0.0),
        max_tokens=9,
        stop=["."],
    )


def finished_record(*, keeps_content: bool = False) -> RequestRecord:
    """A chat answered with four tokens: 10 ms queue, 20 ms prefill, 30 ms decode."""
    record = RequestRecord(keeps_content=keeps_content)
    record.set_generation("chat", "m", [chat_submit()], stream=True)
    finished = make_finished(
        1,
        prompt_tokens=12,
        completion_tokens=4,
        queue_ms=10.0,
        prefill_ms=20.0,
        decode_ms=30.0,
    )
    record.add_events(count_events([Started(1, 12), TextDelta(1, "wo", [5, 6])]))
    record.add_events(count_events([TextDelta(1, "rld", [7, 8]), finished]))
    record.status, record.answer_id = 200, "chatcmpl-1"
    record.end(scope(route="/v1/chat/completions"))
    return record


class Route:
    """The route that Starlette leaves in a scope."""

    def __init__(self, path: str) -> None:
        self.path = path


def scope(path: str = "/v1/chat/completions", **state: object) -> dict[str, object]:
    """The ASGI scope of a request at its end, with `state`; `route` is its route's path."""
    route = state.pop("route", None)
    base: dict[str, object] = {"type": "http", "method": "POST", "path": path, "headers": []}
    if isinstance(route, str):
        base["route"] = Route(route)
    return {**base, "state": {"request_id": "req_1", **state}}
