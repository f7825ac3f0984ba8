"""/tokenize and its kin over HTTP, with real tokenizers: both shapes, faults, and load."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from tests.e2e import plain_http, wire
from tests.e2e.daemon import PATIENT, Daemon, running
from tests.e2e.faulty import faulty
from tests.e2e.keys import add_key, bearer
from tests.e2e.wire import completion

CHAT = "/v1/chat/completions"
TEXT = "Hello  wörld 😀,\n日本 <|eot_id|>"
USER = {"role": "user", "content": TEXT}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
CALLED = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
ANSWER = {"role": "assistant", "content": "It is"}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]},
    "system": {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    "tools": {"messages": CALLED, "tools": [TOOL]},
    "no tool choice": {"messages": CALLED, "tools": [TOOL], "tool_choice": "none"},
    "no generation prompt": {"messages": [USER], "add_generation_prompt": False},
    "continued": {"messages": [USER, ANSWER], "continue_final_message": True},
    "template variable": {
        "messages": [USER],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "reasoning": {"messages": [USER, {**ANSWER, "reasoning_content": "Well."}, USER]},
}
# Small enough for the memory of a preparation, and large enough for a process of its own.
LARGE = "the quick brown fox jumps over the lazy dog " * 25_000
MODELS = ("tiny-llama", "tiny-qwen", "tiny-gemma")


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[str | None, str | None]:
    response = http.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["code"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", CONVERSATIONS)
def test_messages_have_as_many_tokens_as_the_prompt_of_a_chat(
    http: httpx.Client, model: str, case: str
) -> None:
    body = {"model": model, **CONVERSATIONS[case]}
    chat = http.post(CHAT, json={**body, "max_tokens": 1, "temperature": 0})
    if chat.status_code == 400:
        # Some templates refuse some conversations, for both in the same words.
        answer = http.post("/tokenize", json=body)
        assert answer.status_code == 400
        assert answer.json() == chat.json()
        return
    tokenized = http.post("/tokenize", json=body)
    assert tokenized.json()["count"] == chat.json()["usage"]["prompt_tokens"]
    assert tokenized.headers.get("x-mlxd-ignored") == chat.headers.get("x-mlxd-ignored")


def test_a_rendered_conversation_has_the_tokens_of_the_messages(http: httpx.Client) -> None:
    # Without special tokens in the client's text, which in messages are plain text.
    messages = [{"role": "user", "content": "Hello"}, ANSWER, {"role": "user", "content": "Go on"}]
    for model in MODELS:
        body = {"model": model, "messages": messages, "tools": [TOOL]}
        rendered = post(http, "/apply-template", body)
        text = {"model": model, "prompt": rendered["prompt"], "add_special_tokens": False}
        assert post(http, "/tokenize", text)["tokens"] == post(http, "/tokenize", body)["tokens"]


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_those_of_transformers_in_both_shapes(
    http: httpx.Client, model_paths: dict[str, Path], model: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_paths[model.removeprefix("tiny-")])
    whole, bare = tokenizer.encode(TEXT), tokenizer.encode(TEXT, add_special_tokens=False)
    vllm = post(http, "/tokenize", {"model": model, "prompt": TEXT, "return_token_strs": True})
    assert vllm == {
        "count": len(whole),
        "max_model_len": 4096,
        "tokens": whole,
        "token_strs": tokenizer.convert_ids_to_tokens(whole),
    }
    body = {"model": model, "prompt": TEXT, "add_special_tokens": False}
    assert post(http, "/tokenize", body)["tokens"] == bare
    assert post(http, "/tokenize", {"model": model, "content": TEXT}) == {"tokens": bare}
    body = {"model": model, "content": TEXT, "add_special": True}
    assert post(http, "/tokenize", body) == {"tokens": whole}
    body = {"model": model, "content": TEXT, "with_pieces": True}
    pieces = post(http, "/tokenize", body)["tokens"]
    assert [piece["id"] for piece in pieces] == bare
    data = (p.encode() if isinstance(p := piece["piece"], str) else bytes(p) for piece in pieces)
    assert b"".join(data) == TEXT.encode()
    body = {"model": model, "content": TEXT, "parse_special": False}
    plain = tokenizer.encode(TEXT, add_special_tokens=False, split_special_tokens=True)
    assert post(http, "/tokenize", body) == {"tokens": plain}
    text = tokenizer.decode(whole)
    answer = post(http, "/detokenize", {"model": model, "tokens": whole})
    assert answer == {"prompt": text, "content": text}


def test_the_model_is_optional_and_may_be_an_alias(http: httpx.Client) -> None:
    first = post(http, "/tokenize", {"model": MODELS[0], "prompt": TEXT})
    assert post(http, "/tokenize", {"prompt": TEXT}) == first
    assert post(http, "/tokenize", {"model": "default", "prompt": TEXT}) == first
    assert http.post("/tokenize", json={"model": "none", "prompt": TEXT}).status_code == 404
    assert http.get("/tokenizer_info", params={"model": "none"}).status_code == 404


def test_the_configuration_tells_no_path(http: httpx.Client, model_paths: dict[str, Path]) -> None:
    for model in MODELS:
        answer = http.get("/tokenizer_info", params={"model": model})
        path = model_paths[model.removeprefix("tiny-")]
        assert str(path.parent) not in answer.text
        info = answer.json()
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert info["chat_template"] == tokenizer.chat_template
        assert (info["bos_token"], info["eos_token"]) == (tokenizer.bos_token, tokenizer.eos_token)
        assert info["model_max_length"] == 4096
        assert info["tokenizer_class"]
    assert http.get("/tokenizer_info").json()["eos_token"] == "<|eot_id|>"


BAD: dict[str, tuple[str, dict[str, Any], tuple[str | None, str]]] = {
    "nothing": ("/tokenize", {}, ("prompt", "missing_required_parameter")),
    "two texts": ("/tokenize", {"content": "x", "prompt": "x"}, ("content", "invalid_value")),
    "text and messages": (
        "/tokenize",
        {"prompt": "x", "messages": [USER]},
        ("messages", "invalid_value"),
    ),
    "other shape": (
        "/tokenize",
        {"prompt": "x", "with_pieces": True},
        ("with_pieces", "invalid_value"),
    ),
    "tools of a text": ("/tokenize", {"content": "x", "tools": [TOOL]}, ("tools", "invalid_value")),
    "unknown": (
        "/tokenize",
        {"prompt": "x", "chat_template": "{{ 1 }}"},
        ("chat_template", "unknown_parameter"),
    ),
    "no messages": ("/tokenize", {"messages": []}, ("messages", "array_below_min_length")),
    "image": (
        "/apply-template",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ("messages[0].content[0].type", "invalid_value"),
    ),
    "not continuable": (
        "/apply-template",
        {"messages": [USER], "continue_final_message": True},
        ("continue_final_message", "invalid_value"),
    ),
    "outside": ("/detokenize", {"tokens": [1, 5000]}, ("tokens[1]", "invalid_value")),
    "negative": ("/detokenize", {"tokens": [-1]}, ("tokens[0]", "integer_below_min_value")),
    "no tokens": ("/detokenize", {}, ("tokens", "missing_required_parameter")),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_request_is_named(http: httpx.Client, case: str) -> None:
    path, body, expected = BAD[case]
    assert refused(http, path, body) == expected


def test_a_text_of_no_tokens_is_no_error(http: httpx.Client) -> None:
    body = {"prompt": "", "add_special_tokens": False}
    assert post(http, "/tokenize", body)["tokens"] == []
    assert post(http, "/tokenize", {"content": ""}) == {"tokens": []}
    assert post(http, "/detokenize", {"tokens": []}) == {"prompt": "", "content": ""}


def test_a_model_that_is_not_loaded_stays_so(http: httpx.Client) -> None:
    unloaded = http.post("/admin/models/tiny-qwen/unload", json={})
    assert unloaded.json()["status"] == "unloaded"
    assert post(http, "/tokenize", {"model": "tiny-qwen", "prompt": "Hello"})["count"] > 0
    body = {"model": "tiny-qwen", "messages": [USER]}
    assert "<|im_start|>" in post(http, "/apply-template", body)["prompt"]
    assert http.get("/tokenizer_info?model=tiny-qwen").json()["eos_token"] == "<|im_end|>"
    models = {m["id"]: m["status"] for m in http.get("/v1/models").json()["data"]}
    assert models["tiny-qwen"] == "unloaded"


# ---------------------------------------------------------------- load and faults


@pytest.mark.long
def test_a_large_text_beyond_the_context_is_counted_beside_a_stream(demo: Daemon) -> None:
    stop = threading.Event()
    with plain_http.client(demo.url) as http, ThreadPoolExecutor(2) as pool:
        streaming = pool.submit(stream_until, demo, stop)
        tokenized = pool.submit(http.post, "/tokenize", json={"prompt": LARGE})
        statuses = [http.get("/health").status_code]
        while not tokenized.done():
            statuses.append(http.get("/health").status_code)
        stop.set()
        assert streaming.result() > 0
        answer = tokenized.result().json()
        assert set(statuses) == {200}
        assert answer["count"] == len(answer["tokens"]) > 25_000 * 5
        assert answer["max_model_len"] == 2048
        text = post(http, "/detokenize", {"tokens": answer["tokens"]})["content"]
        assert text == f"<|begin_of_text|>{LARGE}"


def stream_until(daemon: Daemon, stop: threading.Event) -> int:
    """Stream answers until `stop` is set; the number of events. None may fail."""
    events = 0
    while not stop.is_set():
        asked = completion(tokens=500, stream=True, ignore_eos=True)
        url = f"{daemon.url}/v1/completions"
        with plain_http.stream("POST", url, json=asked) as response:
            lines = [line for line in response.iter_lines() if line]
        assert response.status_code == 200
        assert lines[-1] == "data: [DONE]"
        events += len(lines)
    return events


def is_preparing(daemon: Daemon) -> bool:
    """Whether the worker is at a text now."""
    return bool(daemon.health()["requests"]["preparing"])


@pytest.fixture(scope="module")
def own(brief_path: Path) -> Iterator[Daemon]:
    """A service that tokenizes for nobody else."""
    with running(brief_path, flags=PATIENT) as daemon:
        yield daemon


@pytest.mark.long
def test_a_tokenization_whose_worker_dies_is_done_by_the_next(own: Daemon) -> None:
    with ThreadPoolExecutor(1) as pool:
        url = f"{own.url}/tokenize"
        answer = pool.submit(plain_http.post, url, json={"content": LARGE})
        # On a busy machine it may be over before it is seen.
        own.wait_for(lambda: is_preparing(own) or answer.done())
        os.kill(own.health()["worker"]["pid"], signal.SIGKILL)
        own.wait_until("worker.restarts", be=1)
        assert answer.result().status_code == 200
        again = plain_http.post(url, json={"content": LARGE}).json()
        assert answer.result().json() == again


def test_a_client_that_leaves_cancels_its_tokenization(own: Daemon) -> None:
    def is_over(client: socket.socket) -> bool:
        return bool(select.select([client], [], [], 0)[0])

    while "/tokenize 499" not in own.output:
        with wire.connect(own) as client:
            client.sendall(wire.post({"content": LARGE}, "/tokenize"))
            own.wait_for(lambda: is_preparing(own) or is_over(client))
        own.wait_until("requests.waiting", be=0)
    own.wait_until("requests.preparing", be=0)


def test_a_tokenization_that_kills_each_worker_fails_alone() -> None:
    with faulty() as daemon:
        answer = plain_http.post(f"{daemon.url}/tokenize", json={"prompt": "[die] always"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "worker_crashed"
        sound = plain_http.post(f"{daemon.url}/tokenize", json={"prompt": "ab"})
        assert sound.json()["tokens"] == [97, 98]


def test_a_tokenization_needs_a_place_of_its_key_and_no_tokens(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    narrow = add_key(path, "narrow", "--max-concurrent", "1", "--tokens-per-minute", "1000")
    with faulty("--keys-file", str(path)) as daemon:

        def tokenize() -> httpx.Response:
            url = f"{daemon.url}/tokenize"
            return plain_http.post(url, json={"prompt": "ab" * 2000}, headers=bearer(narrow))

        assert tokenize().headers["x-ratelimit-remaining-tokens"] == "1000"
        asked = {"model": "fake", "prompt": "x", "max_tokens": 10**5, "stream": True}
        url = f"{daemon.url}/v1/completions"
        with plain_http.stream("POST", url, json=asked, headers=bearer(narrow)) as response:
            lines = response.iter_lines()
            next(lines)
            assert tokenize().status_code == 429
            info = plain_http.get(f"{daemon.url}/tokenizer_info", headers=bearer(narrow))
            assert info.status_code == 429
            # Until here: without its reader the client would have left.
            del lines
