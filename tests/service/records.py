"""Records of requests as the service would have made them."""

from __future__ import annotations

from protocol.messages import ChatPrompt, Finished, Sampling, Started, Submit, TextDelta
from service.requestlog.event_batch import count_events
from service.requestlog.record import RequestRecord


def submit(content: str = "hello") -> Submit:
    """One conversation, greedy."""
    prompt = ChatPrompt([{"role": "user", "content": content}])
    return Submit(1, "m", prompt, Sampling(seed=7, temperature=0.0), max_tokens=9, stop=["."])


def finished_record(*, keeps_content: bool = False) -> RequestRecord:
    """A chat that was answered by four tokens: 10 ms queue, 20 ms prefill, 30 ms decoding."""
    record = RequestRecord(keeps_content=keeps_content)
    record.ask("chat", "m", [submit()], stream=True)
    record.add_events(count_events([Started(1, 12), TextDelta(1, "wo", [5, 6])]))
    record.add_events(
        count_events([TextDelta(1, "rld", [7, 8]), Finished(1, "stop", 12, 4, 10.0, 20.0, 30.0)])
    )
    record.status, record.answer_id = 200, "chatcmpl-1"
    record.end(scope(route="/v1/chat/completions"))
    return record


class Route:
    """As Starlette leaves it in a scope."""

    def __init__(self, path: str) -> None:
        self.path = path


def scope(path: str = "/v1/chat/completions", **changes: object) -> dict[str, object]:
    """A request's scope at its end."""
    route = changes.pop("route", None)
    base: dict[str, object] = {"type": "http", "method": "POST", "path": path, "headers": []}
    if isinstance(route, str):
        base["route"] = Route(route)
    return {**base, "state": {"request_id": "req_1", **changes}}
