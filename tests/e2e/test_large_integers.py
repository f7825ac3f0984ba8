"""Integers of more than 64 bits, which JSON has: taken in schemas, refused as parameters."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon

LARGE = [2**64, -(2**63) - 1, 2**256 - 1, 10**400]
USER = [{"role": "user", "content": "x"}]


def schema(large: int) -> dict[str, Any]:
    """The arguments of a tool with a bound that is large."""
    amount = {"type": "integer", "maximum": large, "description": "wei", "examples": [[large]]}
    return {"type": "object", "properties": {"amount": amount}}


def asked(large: int) -> list[tuple[str, dict[str, Any]]]:
    """A request with such a tool for every endpoint that takes tools."""
    named = {"name": "pay", "description": "Pay"}
    function = {"type": "function", **named, "parameters": schema(large)}
    nested = {"type": "function", "function": {**named, "parameters": schema(large)}}
    theirs = {**named, "input_schema": schema(large), "input_examples": [{"amount": large}]}
    call = {"type": "tool_use", "id": "toolu_1", "name": "pay", "input": {"amount": large}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "paid"}
    paid = [
        *USER,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    model = {"model": "default"}
    return [
        ("/v1/chat/completions", {**model, "messages": USER, "max_tokens": 1, "tools": [nested]}),
        ("/v1/responses", {**model, "input": "x", "max_output_tokens": 1, "tools": [function]}),
        ("/v1/responses/input_tokens", {**model, "input": "x", "tools": [function]}),
        ("/v1/messages", {**model, "messages": paid, "max_tokens": 1, "tools": [theirs]}),
        ("/v1/messages/count_tokens", {**model, "messages": paid, "tools": [theirs]}),
        ("/tokenize", {**model, "messages": USER, "tools": [nested]}),
        ("/apply-template", {**model, "messages": USER, "tools": [nested]}),
    ]


@pytest.mark.parametrize("large", LARGE, ids=["65 bits", "-65 bits", "256 bits", "no float"])
def test_a_tool_may_have_any_integer_in_its_schema(http: httpx.Client, large: int) -> None:
    for path, body in asked(large):
        answer = http.post(path, json=body)
        assert answer.status_code == httpx.codes.OK, (path, answer.text)


@pytest.mark.parametrize("large", LARGE, ids=["65 bits", "-65 bits", "256 bits", "no float"])
def test_a_schema_that_is_enforced_is_honoured_or_refused(http: httpx.Client, large: int) -> None:
    body = {"model": "default", "messages": USER, "max_tokens": 4}
    tool = {"type": "function", "function": {"name": "pay", "parameters": schema(large)}}
    form = {"type": "json_schema", "json_schema": {"name": "pay", "schema": schema(large)}}
    for more in (
        {"tools": [tool], "tool_choice": "required"},
        {"response_format": form},
        {"structured_outputs": {"json": schema(large)}},
        {"chat_template_kwargs": {"budget": large}},
    ):
        answer = http.post("/v1/chat/completions", json={**body, **more})
        assert answer.status_code in (httpx.codes.OK, httpx.codes.BAD_REQUEST), answer.text


@pytest.mark.parametrize("large", LARGE, ids=["65 bits", "-65 bits", "256 bits", "no float"])
@pytest.mark.parametrize(
    "name",
    ["max_tokens", "seed", "top_k", "min_tokens", "n", "top_logprobs", "stop_token_ids", "prompt"],
)
def test_a_parameter_that_is_no_number_here_is_named(
    http: httpx.Client, name: str, large: int
) -> None:
    value = [large] if name in ("stop_token_ids", "prompt") else large
    body = {"model": "default", "prompt": "x", "max_tokens": 1, name: value}
    path = "/v1/chat/completions" if name == "top_logprobs" else "/v1/completions"
    if name == "top_logprobs":
        body = {"model": "default", "messages": USER, name: value}
    answer = http.post(path, json=body)
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert answer.json()["error"]["param"].startswith(name)


def test_after_all_that_no_request_waits(daemon: Daemon) -> None:
    report = daemon.wait_until("requests.waiting", be=0)
    assert report["requests"]["running"] == 0
    assert report["worker"]["restarts"] == 0
