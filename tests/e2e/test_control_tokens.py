"""Control tokens have no text unless it is asked for, on both endpoints, and after a crash."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.mortal import mortal
from tests.oracle import tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONTROL = "<|start_header_id|>"
TOKENS = 24
CRASH_TOKENS = 400


def request_of(path: str, llama_path: Path, **fields: Any) -> dict[str, Any]:
    """A request whose answer is a control token, a letter, or another."""
    ids = [tokenizer(llama_path).convert_tokens_to_ids(name) for name in (CONTROL, "a", "b")]
    prompt: dict[str, Any] = {"prompt": "Say"}
    if path == CHAT:
        prompt = {"messages": [{"role": "user", "content": "Say"}]}
    # The penalty lets none of them be drawn alone.
    sampled = {"logit_bias": dict.fromkeys(map(str, ids), 100), "frequency_penalty": 2}
    limits = {"model": "default", "max_tokens": TOKENS, "temperature": 2, "seed": 3}
    return {**limits, **sampled, **prompt, **fields}


def text_of(choice: dict[str, Any]) -> str:
    """The text of a whole answer, or of one event of a stream."""
    message = choice.get("message") or choice.get("delta") or choice
    return str(message.get("content") or message.get("text") or "")


def ask(http: httpx.Client, path: str, body: dict[str, Any]) -> str:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return text_of(answer.json()["choices"][0])
    lines = answer.text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    events = [json.loads(each) for each in data if each != "[DONE]"]
    return "".join(text_of(event["choices"][0]) for event in events)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_a_control_token_has_text_if_it_is_asked_for(
    http: httpx.Client, llama_path: Path, path: str, stream: bool
) -> None:
    whole = ask(http, path, request_of(path, llama_path, stream=stream, skip_special_tokens=False))
    assert 2 < whole.count(CONTROL) < TOKENS
    for fields in ({}, {"skip_special_tokens": True}, {"skip_special_tokens": None}):
        text = ask(http, path, request_of(path, llama_path, stream=stream, **fields))
        assert text == whole.replace(CONTROL, "")


def test_log_probabilities_have_control_tokens_and_offsets_of_the_text(
    http: httpx.Client, llama_path: Path
) -> None:
    chat = http.post(CHAT, json=request_of(CHAT, llama_path, logprobs=True)).json()["choices"][0]
    tokens = [token["token"] for token in chat["logprobs"]["content"]]
    assert len(tokens) == TOKENS
    assert CONTROL in tokens
    text = http.post(TEXT, json=request_of(TEXT, llama_path, logprobs=0)).json()["choices"][0]
    told = text["logprobs"]
    assert CONTROL in told["tokens"]
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert token == CONTROL or text["text"].startswith(token, offset)


def test_a_control_token_as_a_stop_string_ends_the_answer(
    http: httpx.Client, llama_path: Path
) -> None:
    body = request_of(TEXT, llama_path, stop=[CONTROL])
    whole = ask(http, TEXT, request_of(TEXT, llama_path, skip_special_tokens=False))
    choice = http.post(TEXT, json=body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (whole.partition(CONTROL)[0], "stop")


def test_an_echoed_prompt_of_token_ids_has_no_control_tokens(
    http: httpx.Client, llama_path: Path
) -> None:
    ids = tokenizer(llama_path).convert_tokens_to_ids(["a", CONTROL, "b"])
    body = {"model": "default", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
    hidden = http.post(TEXT, json=body).json()["choices"][0]
    assert (hidden["text"], hidden["logprobs"]["text_offset"]) == ("ab", [0, 1, 1])
    shown = http.post(TEXT, json={**body, "skip_special_tokens": False}).json()["choices"][0]
    assert shown["text"] == f"a{CONTROL}b"


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen", "tiny-gemma"])
def test_the_offset_of_each_token_is_where_the_text_has_it(http: httpx.Client, model: str) -> None:
    fields = {"prompt": "The cat, the mat", "max_tokens": TOKENS, "echo": True, "logprobs": 0}
    body = {"model": model, "temperature": 1, "seed": 2, **fields}
    choice = http.post(TEXT, json=body).json()["choices"][0]
    told = choice["logprobs"]
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        is_hidden = token.startswith(("<", "bytes:"))
        assert is_hidden or choice["text"].startswith(token, offset)
    assert told["text_offset"][-1] > len("The cat, the mat")


@pytest.mark.long
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_control_tokens_stay_hidden_or_shown_after_a_crash(llama_path: Path, path: str) -> None:
    bodies = [
        request_of(path, llama_path, stream=True, max_tokens=CRASH_TOKENS, skip_special_tokens=skip)
        for skip in (True, False)
    ]
    with mortal(llama_path) as dying, plain_http.client(dying.daemon.url) as http:
        undisturbed = [ask(http, path, body) for body in bodies]
        dying.end_after(CRASH_TOKENS // 2)
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = [threads.submit(ask, http, path, body) for body in bodies]
            assert [answer.result() for answer in answers] == undisturbed
        assert dying.restarts() == 1
    assert CONTROL not in undisturbed[0]
    assert undisturbed[1].replace(CONTROL, "") == undisturbed[0]
