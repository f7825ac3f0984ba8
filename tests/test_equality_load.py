"""The comparison of answers: its cases, where answers differ, and the table."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.load.equality.cases import Answer, ask, draw_cases
from tests.load.equality.report import compare, differences_of, shares_table, uncached_of

GREEDY, SEEDED = draw_cases(2, 8)
ANSWER = Answer([b"a", b"b", b"c"], [-0.1, -0.2, -0.3], cached_tokens=4)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chunk(*tokens: tuple[list[int], float]) -> dict[str, Any]:
    content = [{"token": "?", "bytes": part, "logprob": logprob} for part, logprob in tokens]
    return {"choices": [{"delta": {}, "logprobs": {"content": content}}]}


async def answer_to(events: list[str], *, status: int = 200) -> Answer:
    """What is read of a stream."""
    content = "".join(f"data: {event}\n\n" for event in events)

    async def parts() -> AsyncIterator[bytes]:
        yield content.encode()

    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=parts()))
    async with httpx.AsyncClient(transport=transport, base_url="http://load") as client:
        return await ask(client, GREEDY)


USAGE = {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 4}}}
STREAM = [chunk(([97], -0.1)), chunk(([98], -0.2), ([99], -0.3)), USAGE]


@pytest.mark.anyio
async def test_an_answers_tokens_are_read_with_their_log_probabilities() -> None:
    events = [*map(json.dumps, STREAM), "[DONE]"]
    assert await answer_to(events) == ANSWER


@pytest.mark.anyio
async def test_a_stream_that_does_not_end_has_failed() -> None:
    assert (await answer_to([json.dumps(each) for each in STREAM])).error == "no end"
    failed = await answer_to([json.dumps({"error": {"code": "worker_crashed"}}), "[DONE]"])
    assert "worker_crashed" in str(failed.error)
    assert str((await answer_to([], status=503)).error).startswith("503")


def test_every_second_case_is_greedy_and_none_begins_like_another() -> None:
    cases = draw_cases(8, 16)
    assert [case.seed for case in cases] == [None, 1, None, 3, None, 5, None, 7]
    assert len({case.instructions.split()[0] for case in cases}) == len(cases)
    assert cases == draw_cases(8, 16)
    assert all(case.sibling().instructions == case.instructions for case in cases)
    assert all(case.sibling().question != case.question for case in cases)


def test_the_first_token_that_differs_is_told() -> None:
    other = Answer([b"a", b"x", b"c"], [-0.1, -0.9, -0.3], cached_tokens=0)
    compared = compare([GREEDY, SEEDED], [ANSWER, ANSWER], [other, ANSWER])
    assert str(compared) == "0/1 1/1"
    [difference] = compared.differences
    assert (difference.place, difference.expected, difference.found) == (1, "'b'", "'x'")
    [line] = differences_of({("llama", "float32"): {"again": compared}})
    assert "token 1: 'x' (-0.9000) instead of 'b' (-0.2000)" in line


@given(st.lists(st.binary(min_size=1), max_size=4), st.lists(st.binary(min_size=1), max_size=4))
def test_answers_are_equal_where_all_tokens_are(ours: list[bytes], theirs: list[bytes]) -> None:
    one, other = (Answer(tokens, [0.0] * len(tokens), 0) for tokens in (ours, theirs))
    compared = compare([GREEDY], [one], [other])
    assert (not compared.differences) == (ours == theirs)


def test_equal_tokens_may_have_other_log_probabilities() -> None:
    other = replace(ANSWER, logprobs=[-0.1, -0.2, -0.4])
    compared = compare([GREEDY], [ANSWER], [other])
    assert not compared.differences
    assert compared.largest_logprob_difference == pytest.approx(0.1)


def test_the_table_has_a_row_for_each_family_and_dtype() -> None:
    compared = compare([GREEDY, SEEDED], [ANSWER] * 2, [ANSWER] * 2)
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(shares_table({("llama", "float32"): {"from disk": compared}}))
    text = console.export_text()
    for name in ("llama", "float32", "from disk", "1/1 1/1"):
        assert name in text


def test_a_cache_that_was_not_used_is_told() -> None:
    compared = compare([GREEDY], [ANSWER], [replace(ANSWER, cached_tokens=0)])
    ways = {"from disk": compared, "beside others": compared}
    [line] = uncached_of({("llama", "float32"): ways})
    assert "from disk: only 0 of 1" in line


def test_a_failed_request_is_told() -> None:
    compared = compare([GREEDY], [ANSWER], [Answer([], [], 0, "503")])
    lines = list(differences_of({("llama", "float32"): {"again": compared}}))
    assert lines[-1].endswith("failed: 503")
