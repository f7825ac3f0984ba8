"""One request of the soak as a client sends it, and its result."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx
import msgspec

from tests.load.soak.cases import Case

# A request that has not ended by then hangs.
HUNG_AFTER_S = 600.0
LONGEST_STAY_S = 1.5
SLOW_READ_S = 0.05
SLOW_READS = 40

Manner = Literal["read", "leave", "slow"]
End = Literal["finished", "left", "failed", "hung"]
MANNERS: list[Manner] = ["read", "leave", "slow"]
OFTEN = [7, 2, 1]


@dataclass
class Outcome:
    """How one request ended. `code` is the error's, `text` all text received."""

    case: Case
    end: End = "failed"
    text: str = ""
    code: str | None = None
    tokens: int | None = None


def draw_manner(chance: random.Random) -> tuple[bool, Manner, float]:
    """Whether it streams, how its client behaves, and after how long a leaving client leaves."""
    [manner] = chance.choices(MANNERS, weights=OFTEN)
    return chance.random() < 0.6, manner, LONGEST_STAY_S * chance.random()


async def ask(
    client: httpx.AsyncClient, case: Case, *, stream: bool, manner: Manner, stay_s: float
) -> Outcome:
    """Send one request and behave like this client. Errors are recorded, not raised."""
    outcome = Outcome(case)
    limit_s = stay_s if manner == "leave" else HUNG_AFTER_S
    with anyio.move_on_after(limit_s) as scope:
        try:
            await read(client, outcome, stream=stream, slow=manner == "slow")
        except httpx.HTTPError as error:
            outcome.code = type(error).__name__
    if scope.cancelled_caught:
        outcome.end = "left" if manner == "leave" else "hung"
    return outcome


async def read(client: httpx.AsyncClient, outcome: Outcome, *, stream: bool, slow: bool) -> None:
    """Read the response into the result."""
    body = outcome.case.body(stream=stream)
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if not stream or answer.status_code != 200:
            take(outcome, msgspec.json.decode(await answer.aread()))
            return
        slow_reads, last = SLOW_READS if slow else 0, ""
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                take(outcome, msgspec.json.decode(line.removeprefix("data: ")))
            if slow_reads:
                slow_reads -= 1
                await anyio.sleep(SLOW_READ_S)
            last = line or last
        if outcome.end == "finished" and last != "data: [DONE]":
            outcome.end, outcome.code = "failed", "no [DONE]"


def take(outcome: Outcome, part: dict[str, Any]) -> None:
    """One event, or the one body."""
    if error := part.get("error"):
        outcome.end, outcome.code = "failed", str(error["code"])
        return
    for choice in part["choices"]:
        outcome.text += choice["text"]
        if choice["finish_reason"]:
            outcome.end = "finished"
    if usage := part.get("usage"):
        outcome.tokens = usage["completion_tokens"]
