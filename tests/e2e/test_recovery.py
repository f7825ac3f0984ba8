"""The real worker dies, stalls or runs out of memory, and clients see only a pause."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.endings import processor_ticks, ticks_until_gone
from tests.e2e.json_events import Body, parts_of
from tests.e2e.mortal import Mortal, mortal
from tests.memory_limits import limit_to_held
from tests.models import families
from tests.prompts import PROMPTS
from tests.waiting import HANG_S

STREAMS, PLAIN = 16, 8
TOKENS = 160
# After how many tokens since the last death, of all answers together, the next one is.
DEATHS_AFTER = (500, 800, 800)
PREFILLING = 32
PREFILL_TICKS = 20
# The whole prefill takes several times as many.
GONE_WITHIN_TICKS = 150
STALL_S = 4.0
# What of a text is asked for as a stop string, so that it surely comes.
STOP_AT, STOP_CHARACTERS = 200, 3
# What of the usage a kill does not change: times, and what was cached, it does.
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True)
class Outcome:
    """All that a client can see of an answer."""

    text: str
    finish_reason: str | None
    usage: dict[str, int]


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Mortal]:
    with mortal(llama_path, flags=["--stall-s", str(STALL_S)]) as dying:
        yield dying


def bodies() -> list[Body]:
    """Streams and plain requests, greedy and seeded by turns, all different."""
    asked: list[Body] = []
    for place, prompt in zip(range(STREAMS + PLAIN), itertools.cycle(PROMPTS)):
        body: Body = {"model": "default", "prompt": prompt, "max_tokens": TOKENS + 8 * place}
        body |= {"temperature": 0} if place % 2 else {"temperature": 0.8, "seed": place}
        if place < STREAMS:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        asked.append(body)
    return asked


def with_stops(asked: list[Body], outcomes: list[Outcome]) -> list[Body]:
    """Every third with a stop string that its undisturbed text has."""
    return [
        {**body, "stop": [outcome.text[STOP_AT : STOP_AT + STOP_CHARACTERS]]}
        if place % 3 == 0
        else body
        for place, (body, outcome) in enumerate(zip(asked, outcomes, strict=True))
    ]


async def complete(client: httpx.AsyncClient, body: Body) -> Outcome:
    """One answer to its end."""
    text, reason = "", None
    usage: dict[str, Any] = {}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for part in parts_of(response, stream="stream" in body):
            assert "error" not in part, part
            usage = part.get("usage") or usage
            for choice in part["choices"]:
                text += choice["text"]
                reason = choice["finish_reason"] or reason
    return Outcome(text, reason, {name: usage[name] for name in COUNTS})


async def complete_all(daemon: Daemon, asked: list[Body]) -> list[Outcome]:
    """All answers, to requests sent at once."""
    outcomes: dict[int, Outcome] = {}

    async def one(client: httpx.AsyncClient, place: int) -> None:
        outcomes[place] = await complete(client, asked[place])

    async with (
        plain_http.async_client(daemon.url) as client,
        anyio.create_task_group() as group,
    ):
        for place in range(len(asked)):
            group.start_soon(one, client, place)
    return [outcomes[place] for place in range(len(asked))]


@pytest.mark.long
def test_no_client_can_tell_an_answer_under_kills_from_an_undisturbed_one(own: Mortal) -> None:
    asked = bodies()
    asked = with_stops(asked, anyio.run(complete_all, own.daemon, asked))
    undisturbed = anyio.run(complete_all, own.daemon, asked)
    assert {outcome.finish_reason for outcome in undisturbed} == {"stop", "length"}
    before = own.restarts()
    own.end_after(*DEATHS_AFTER)
    killed = anyio.run(complete_all, own.daemon, asked)
    last = own.daemon.wait_until("status", be="healthy")["worker"]
    assert last["restarts"] == before + len(DEATHS_AFTER)
    # The service saw the worker's end itself, before the stall timer ran out.
    assert last["last_exit"]["reason"] == "signal SIGKILL"
    assert killed == undisturbed


def test_a_worker_that_stops_is_replaced_and_its_answer_goes_on(own: Mortal) -> None:
    body: Body = {"model": "default", "prompt": "x", "max_tokens": 400, "temperature": 0}
    [undisturbed] = anyio.run(complete_all, own.daemon, [body])
    own.end_after(100, number=signal.SIGSTOP)
    with ThreadPoolExecutor(1) as client:
        with own.held():
            outcomes = client.submit(lambda: anyio.run(complete_all, own.daemon, [body]))
            report = own.daemon.wait_until("status", be="restarting")
            assert report["worker"]["pid"] is not None
        assert outcomes.result() == [undisturbed]
    last_exit = own.daemon.wait_until("status", be="healthy")["worker"]["last_exit"]
    assert (last_exit["signal"], last_exit["phase"]) == ("SIGKILL", "busy")
    assert last_exit["reason"] == f"no answer to a ping for {STALL_S:g} s"


def test_a_model_that_cannot_be_computed_is_told_at_the_start(tmp_path: Path) -> None:
    # Attention refuses heads that are no multiple of the key heads, when it is computed.
    uneven = dataclasses.replace(
        families.LLAMA, sizes={**families.LLAMA.sizes, "num_key_value_heads": 3}
    )
    with running(families.make(uneven, tmp_path / "uneven"), wait=False) as daemon:
        assert daemon.wait() == 1
    assert "mlxd: model 'uneven' cannot be loaded" in daemon.output
    assert "scaled_dot_product_attention" in daemon.lines[-1]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_an_allocation_that_fails_is_a_pause_too(llama_path: Path) -> None:
    # The worker ends by itself: it is not taken for hung before the test is.
    with running(llama_path, flags=["--stall-s", str(2 * HANG_S)]) as daemon:
        limit_to_held(daemon.health()["worker"]["pid"])
        body = {"model": "default", "prompt": [7] * 3500, "max_tokens": 4, "temperature": 0}
        disturbed = anyio.run(complete_all, daemon, [body])
        assert daemon.health()["worker"]["restarts"] == 1
        assert disturbed == anyio.run(complete_all, daemon, [body])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_service_killed_during_a_long_prefill_takes_its_worker_with_it(llama_path: Path) -> None:
    with running(llama_path, flags=["--prefill-step-tokens", "4000"]) as daemon:
        worker = daemon.health()["worker"]["pid"]
        body = {"model": "default", "prompt": [[5] * 4000] * PREFILLING, "max_tokens": 8}
        with ThreadPoolExecutor(1) as client:
            loaded = processor_ticks(worker)
            sent = client.submit(plain_http.post, f"{daemon.url}/v1/completions", json=body)
            daemon.wait_for(lambda: processor_ticks(worker) >= loaded + PREFILL_TICKS)
            assert daemon.health()["requests"]["running"] == PREFILLING
            killed_at = processor_ticks(worker)
            daemon.process.kill()
            assert ticks_until_gone(worker) - killed_at < GONE_WITHIN_TICKS
            assert isinstance(sent.exception(), httpx.TransportError)
        daemon.wait()
