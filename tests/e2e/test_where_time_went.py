"""Every answer says where its time went, where its prompt's tokens came from, and where it parted.

The expected places are those of the prompts' token ids, from `/tokenize`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LONG_TOKENS = 2500
PHASES = ("preparation_ms", "load_ms", "restart_ms", "queue_ms", "prefill_ms", "decode_ms")
MODELS = ("tiny-llama", "tiny-qwen", "tiny-gemma")
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "call12345", "type": "function", "function": {"name": "look", "arguments": "{}"}}
NUMBERS = itertools.count()

Message = dict[str, Any]


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON of a stream's events."""
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        lines = list(response.iter_lines())
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def agent_turns(http: httpx.Client) -> list[Message]:
    """A conversation that no other test has."""
    number = next(NUMBERS)
    return [
        {"role": "system", "content": f"{id(http)} {number}: be brief, and be kind to all."},
        {"role": "user", "content": "Look around, and say what there is."},
        {"role": "assistant", "content": "I look now.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "A lamp, a door and a stair."},
        {"role": "assistant", "content": "There are a lamp, a door and a stair."},
        {"role": "user", "content": "Which of them is the oldest?"},
    ]


def chat(http: httpx.Client, model: str, messages: list[Message], **more: Any) -> dict[str, Any]:
    """The usage of a short answer."""
    body = {"model": model, "messages": messages, "tools": [TOOL], "max_tokens": 2, **more}
    usage: dict[str, Any] = post(http, CHAT, body)["usage"]
    return usage


def ids_of(http: httpx.Client, model: str, messages: list[Message]) -> list[int]:
    """The prompt's token ids."""
    body = {"model": model, "messages": messages, "tools": [TOOL]}
    ids: list[int] = post(http, "/tokenize", body)["tokens"]
    return ids


def first_difference(known: list[int], ids: list[int]) -> int:
    pairs = enumerate(zip(known, ids, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(known), len(ids)))


def check_sums(usage: dict[str, Any]) -> None:
    """The counts of an undisturbed request with one answer fit together."""
    mlxd = usage["mlxd"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert mlxd["memory_tokens"] + mlxd["disk_tokens"] == cached <= mlxd["common_tokens"]
    given = mlxd["memory_tokens"] + mlxd["disk_tokens"] + mlxd["shared_tokens"]
    assert given + mlxd["computed_tokens"] == usage["prompt_tokens"]
    assert all(mlxd[phase] >= 0 for phase in PHASES)
    assert mlxd["prefill_ms"] > 0


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("model", MODELS)
def test_the_place_and_the_message_of_an_edit_are_told(
    http: httpx.Client, model: str, index: int
) -> None:
    messages = agent_turns(http)
    first = chat(http, model, messages)
    check_sums(first)
    content = messages[index]["content"]
    middle = len(content) // 2
    edited = {**messages[index], "content": f"{content[:middle]}, or so,{content[middle:]}"}
    changed = [*messages[:index], edited, *messages[index + 1 :]]
    place = first_difference(ids_of(http, model, messages), ids_of(http, model, changed))
    usage = chat(http, model, changed)
    check_sums(usage)
    assert usage["mlxd"]["common_tokens"] == place
    assert usage["mlxd"]["parted"] == {
        "token": place,
        "differs": True,
        "message": index,
        "role": messages[index]["role"],
    }


@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_that_is_known_as_a_whole_parts_nowhere(http: httpx.Client, model: str) -> None:
    messages = agent_turns(http)
    chat(http, model, messages)
    usage = chat(http, model, messages)
    check_sums(usage)
    assert usage["mlxd"]["parted"] is None
    assert usage["mlxd"]["common_tokens"] == usage["prompt_tokens"]
    assert usage["mlxd"]["computed_tokens"] == 1


def test_an_answer_is_known_with_its_prompt(http: httpx.Client) -> None:
    ids = [300 + next(NUMBERS), *range(10, 60)]
    body = {"model": MODELS[0], "max_tokens": 1}
    check_sums(post(http, COMPLETIONS, {**body, "prompt": ids})["usage"])
    usage = post(http, COMPLETIONS, {**body, "prompt": [*ids, *range(70, 90)]})["usage"]
    parted = {"token": len(ids), "differs": True, "message": None, "role": None}
    assert usage["mlxd"]["parted"] == parted
    assert usage["mlxd"]["common_tokens"] == len(ids)
    assert usage["mlxd"]["computed_tokens"] == 20


def test_what_several_answers_share_is_counted(http: httpx.Client) -> None:
    messages = agent_turns(http)
    usage = chat(http, MODELS[0], messages, n=3)
    mlxd = usage["mlxd"]
    computed = usage["prompt_tokens"] - mlxd["memory_tokens"]
    assert (mlxd["computed_tokens"], mlxd["shared_tokens"]) == (computed, 2 * computed)
    number = next(NUMBERS)
    text = f"{id(http)} {number}: the same text, again and again."
    body = {"model": MODELS[0], "max_tokens": 2}
    best = post(http, COMPLETIONS, {**body, "prompt": text, "best_of": 4})["usage"]
    assert best["mlxd"]["shared_tokens"] == 3 * best["mlxd"]["computed_tokens"] > 0
    equal = post(http, COMPLETIONS, {**body, "prompt": [text + "!"] * 2})["usage"]
    assert equal["mlxd"]["shared_tokens"] == equal["mlxd"]["computed_tokens"] > 0


ASKED = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 3},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 16},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
}


@pytest.mark.parametrize("path", ASKED)
def test_each_dialect_tells_it_whole_and_at_the_end_of_a_stream(
    http: httpx.Client, path: str
) -> None:
    body = {"model": MODELS[0], **ASKED[path]}
    whole = post(http, path, body)["usage"]["mlxd"]
    events = (
        events_of(http, path, {**body, "stream_options": {"include_usage": True}})
        if path in (CHAT, COMPLETIONS)
        else events_of(http, path, body)
    )
    usages = [event.get("response", event).get("usage") for event in events]
    told = [usage["mlxd"] for usage in usages if usage and "mlxd" in usage]
    assert [set(each) for each in told] == [set(whole)]
    for mlxd in (whole, told[0]):
        assert all(mlxd[phase] >= 0 for phase in PHASES)
        assert mlxd["decode_ms"] > 0
        assert set(mlxd) >= {"memory_tokens", "disk_tokens", "shared_tokens", "computed_tokens"}


def test_usage_so_far_has_no_times_yet(http: httpx.Client) -> None:
    body = {"model": MODELS[0], **ASKED[CHAT]}
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = events_of(http, CHAT, {**body, "stream_options": options})
    assert all("mlxd" not in event["usage"] for event in events[:-1])
    assert "mlxd" in events[-1]["usage"]


def test_messages_and_responses_name_the_place_in_their_own_lists(http: httpx.Client) -> None:
    number = next(NUMBERS)
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "A lamp and a door."}
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    turns = [
        {"role": "user", "content": f"{id(http)} {number}: look."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {
        "model": MODELS[1],
        "max_tokens": 2,
        "system": f"{number}: be kind.",
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    }
    post(http, "/v1/messages", {**body, "messages": turns})
    changed = {**result, "content": "A lamp and a stair."}
    asked = {**body, "messages": [*turns[:2], {"role": "user", "content": [changed]}]}
    parted = post(http, "/v1/messages", asked)["usage"]["mlxd"]["parted"]
    assert (parted["message"], parted["role"], parted["differs"]) == (2, "user", True)
    asked = {**body, "messages": turns, "system": f"{number}: be very kind."}
    parted = post(http, "/v1/messages", asked)["usage"]["mlxd"]["parted"]
    assert (parted["message"], parted["role"]) == (None, "system")

    items = [
        {"role": "user", "content": f"{id(http)} {number}: look there."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "A lamp and a door."},
    ]
    own = {"model": MODELS[1], "max_output_tokens": 16, "store": False}
    post(http, "/v1/responses", {**own, "input": items})
    items[2] = {**items[2], "output": "A lamp and a stair."}
    parted = post(http, "/v1/responses", {**own, "input": items})["usage"]["mlxd"]["parted"]
    assert (parted["message"], parted["role"], parted["differs"]) == (2, "tool", True)


def test_the_log_line_and_the_status_have_the_same(tmp_path: Path, llama_path: Path) -> None:
    log = tmp_path / "log"
    with (
        running(llama_path, flags=["--log-file", str(log), "--log-format", "json"]) as daemon,
        plain_http.client(daemon.url) as http,
    ):
        messages = agent_turns(http)
        chat(http, "default", messages)
        changed = [*messages[:3], {**messages[3], "content": "A stair."}, *messages[4:]]
        mlxd = chat(http, "default", changed)["mlxd"]
        recent = http.get("/status").json()["recent"][0]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line["request"] for line in lines if "request" in line]
    line = next(each for each in reversed(requests) if each["path"] == CHAT)
    counts = ("memory_tokens", "disk_tokens", "shared_tokens", "computed_tokens", "common_tokens")
    for name in counts:
        assert line[name] == recent[name] == mlxd[name]
    assert recent["parted"] == mlxd["parted"]
    assert (line["parted_token"], line["parted_message"]) == (mlxd["parted"]["token"], 3)
    assert line["parted_role"] == "tool"
    assert recent["preparation_ms"] == pytest.approx(mlxd["preparation_ms"], abs=0.06)
    assert "stair" not in json.dumps([line, recent])


@pytest.fixture
def cached(tmp_path: Path) -> list[str]:
    return ["--prompt-cache-dir", str(tmp_path / "prompts")]


@pytest.mark.long
def test_tokens_from_disk_are_told_after_a_restart(cached: list[str], qwen_path: Path) -> None:
    messages = agent_turns(httpx.Client())
    with running(qwen_path, flags=cached) as daemon, plain_http.client(daemon.url) as http:
        known = chat(http, "default", messages)["prompt_tokens"]
        assert chat(http, "default", messages)["mlxd"]["memory_tokens"] == known - 1
    with running(qwen_path, flags=cached) as daemon, plain_http.client(daemon.url) as http:
        usage = chat(http, "default", messages)
        check_sums(usage)
        assert usage["mlxd"]["disk_tokens"] == known - 1
        assert usage["mlxd"]["memory_tokens"] == 0
        again = chat(http, "default", messages)
        assert (again["mlxd"]["disk_tokens"], again["mlxd"]["memory_tokens"]) == (0, known - 1)


def kill_worker(daemon: Daemon) -> None:
    os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)


@pytest.mark.long
def test_a_crash_adds_to_the_times_and_tokens(llama_path: Path) -> None:
    body = {"model": "default", "prompt": "Go on and on", "max_tokens": 8, "temperature": 0}
    with running(llama_path) as daemon, plain_http.client(daemon.url) as http:
        undisturbed = post(http, COMPLETIONS, body)["usage"]["mlxd"]
        assert undisturbed["restart_ms"] == 0
        # So long that it is not complete before the kill.
        long = {"max_tokens": LONG_TOKENS, "stream_options": {"include_usage": True}}
        asked = {**body, **long, "stream": True}
        with http.stream("POST", COMPLETIONS, json=asked) as response:
            lines = response.iter_lines()
            for _ in range(20):
                next(lines)
            kill_worker(daemon)
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        usage = events[-1]["usage"]
        recent = http.get("/status").json()["recent"][0]
    mlxd = usage["mlxd"]
    assert usage["completion_tokens"] == LONG_TOKENS
    assert mlxd["restart_ms"] > 0
    # The prompt was in the cache at first, and is computed again with the answer so far.
    assert mlxd["memory_tokens"] == usage["prompt_tokens"] - 1
    assert mlxd["computed_tokens"] > usage["prompt_tokens"]
    told = sum(mlxd[phase] for phase in PHASES)
    assert mlxd["restart_ms"] < told <= recent["total_ms"]
    assert recent["restarts"] == 1
