"""Sends the requests of sessions, and measures them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.load.agents.script import Request, Step
from tests.load.timings import Timing, ask

MODEL = "default_model"
REQUEST_TIMEOUT_S = 600.0
# A cancelled request ends after this share of the time that its prefill should take.
CANCEL_SHARE = 0.5
LEAST_CANCEL_S = 0.05


@dataclass(frozen=True)
class Sent:
    """A request and its times, in seconds of the monotonic clock; `leg` counts the restarts."""

    request: Request
    timing: Timing
    leg: int = 0

    @property
    def first_token_s(self) -> float | None:
        """None where there was no text."""
        at = self.timing.text_at
        return at[0] - self.timing.due_at if at else None

    @property
    def whole_s(self) -> float:
        """From its sending to its end."""
        return self.timing.ended_at - self.timing.due_at

    @property
    def computed(self) -> int | None:
        """The prompt's tokens that were not cached; None where the server does not tell."""
        cached = self.timing.cached_tokens
        return None if cached is None else self.timing.prompt_tokens - cached


def body_of(request: Request, model: str = MODEL) -> dict[str, Any]:
    """The request of chat completions."""
    body: dict[str, Any] = {"model": model, "messages": request.messages}
    if request.tools:
        body["tools"] = request.tools
    body |= {"max_tokens": request.answer_tokens, "temperature": 0, "ignore_eos": True}
    return body | {"stream": True, "stream_options": {"include_usage": True}}


class Sender:
    """The sessions' client."""

    def __init__(self, model: str = MODEL) -> None:
        self._model = model
        self._speeds: dict[str, float] = {}
        self.sent: list[Sent] = []

    async def run(self, url: str, sessions: Mapping[str, Sequence[Step]], leg: int) -> None:
        """Send the steps of all sessions, which run at the same time."""
        async with (
            httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for steps in sessions.values():
                tasks.create_task(self._run_session(client, steps, leg))

    async def _run_session(
        self, client: httpx.AsyncClient, steps: Sequence[Step], leg: int
    ) -> None:
        for step in steps:
            await asyncio.gather(*(self._send(client, each, leg) for each in step.requests))

    async def _send(self, client: httpx.AsyncClient, request: Request, leg: int) -> None:
        began = time.perf_counter()
        limit_s = self._cancel_after_s(request) if request.cancel else REQUEST_TIMEOUT_S
        try:
            async with asyncio.timeout(limit_s):
                timing = await ask(client, body_of(request, self._model), began)
        except TimeoutError:
            timing = Timing(began, ended_at=time.perf_counter(), error="cancelled")
        sent = Sent(request, timing, leg)
        self.sent.append(sent)
        if request.turn == 1 and request.kind == "turn" and sent.first_token_s:
            self._speeds[request.session] = characters(request) / sent.first_token_s

    def _cancel_after_s(self, request: Request) -> float:
        """Half of the time that its last message should take, at the speed of the first prompt."""
        speed = self._speeds.get(request.session)
        if speed is None:
            return LEAST_CANCEL_S
        new = len(str(request.messages[-1]["content"]))
        return max(LEAST_CANCEL_S, CANCEL_SHARE * new / speed)


def characters(request: Request) -> int:
    """The length of its messages and tools, about."""
    return len(str(request.messages)) + len(str(request.tools))
