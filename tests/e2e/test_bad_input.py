"""Invalid requests get an error that names the parameter, and never reach the worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**changed: Any) -> bytes:
    asked = {"model": "default", "messages": HELLO, "max_tokens": 2, **changed}
    return json.dumps(asked).encode()


def message(**changed: Any) -> bytes:
    return chat(messages=[{"role": "user", "content": "Hello", **changed}])


def completion(**changed: Any) -> bytes:
    return json.dumps({"model": "default", "prompt": "x", "max_tokens": 2, **changed}).encode()


def raw(fields: bytes) -> bytes:
    return b'{"model":"default","messages":[{"role":"user","content":"x"}],' + fields + b"}"


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must be one, in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body: dict[str, dict[str, Any]] = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert len(body["error"]["message"]) <= 300
    return body["error"]


def post(http: httpx.Client, body: bytes, path: str = CHAT, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", **headers}
    return http.post(path, content=body, headers=sent)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"42",
        b"[]",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        '{"model": "default"}'.encode("utf-16"),
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 3_000_000,
        raw(b'"temperature": NaN'),
        raw(b'"temperature": 1e999'),
        raw(b'"tools": ' + b"[" * 1000 + b"]" * 1000),
    ],
)
def test_a_body_that_is_no_request_is_400(http: httpx.Client, body: bytes) -> None:
    error = refusal(post(http, body), 400)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(messages=[]), "messages"),
        (chat(messages="hello"), "messages"),
        (message(role="wizard"), "messages[0].role"),
        (message(role="x" * 1_000_000), "messages[0].role"),
        (message(role="- at `$.evil`"), "messages[0].role"),
        (message(content=None), "messages[0].content"),
        (message(content=5), "messages[0].content"),
        (message(content=[{"type": "image_url"}]), "messages[0].content[0].type"),
        (message(images=["x"]), "messages[0].images"),
        (message(prefix=True), "messages[0].prefix"),
        (chat(messages=[{"role": "user"}]), "messages[0].content"),
        (chat(messages=[{"content": "x"}]), "messages[0].role"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (chat(temperature=-1), "temperature"),
        (chat(temperature=3), "temperature"),
        (chat(temperature="0.5"), "temperature"),
        (chat(top_p=-1), "top_p"),
        (chat(top_p=2), "top_p"),
        (chat(top_k=-2), "top_k"),
        (chat(min_p=1.5), "min_p"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_tokens=-1), "max_tokens"),
        (chat(max_tokens=10**30), "max_tokens"),
        (raw(b'"max_tokens": ' + b"9" * 5000), "max_tokens"),
        (chat(max_completion_tokens=5), "max_tokens"),
        (chat(seed=2**64), "seed"),
        (chat(stop=["a"] * 65), "stop"),
        (chat(min_tokens=3), "min_tokens"),
        (chat(min_tokens=10**6, max_tokens=None), "min_tokens"),
        (chat(structured_outputs={"json": "{"}), "structured_outputs.json"),
        (chat(structured_outputs={"json": {}, "regex": "a"}), "structured_outputs"),
        (chat(stop=""), "stop"),
        (chat(stop=[""]), "stop[0]"),
        (chat(stream_options={"include_usage": True}), "stream_options"),
        (chat(n=129), "n"),
        (chat(n=0), "n"),
        (chat(logprobs=1), "logprobs"),
        (chat(top_logprobs=2), "top_logprobs"),
        (chat(top_logprobs=21), "top_logprobs"),
        (chat(presence_penalty=2.5), "presence_penalty"),
        (chat(logit_bias={"99999999": 5}), "logit_bias"),
        (chat(logit_bias={"-1": 5}), "logit_bias"),
        (chat(logit_bias={"one": 5}), "logit_bias"),
        (chat(stop_token_ids=[2_000_000]), "stop_token_ids"),
        (chat(chat_template_kwargs={"chat_template": "x"}), "chat_template_kwargs"),
        (chat(logit_bias={"1": 1e30}), "logit_bias"),
        (chat(tools=[{"type": "function"}]), "tools[0].function"),
        (chat(response_format={"type": "xml"}), "response_format.type"),
        (chat(structured_outputs={"regex": "(?<=x)*"}), "structured_outputs"),
        (chat(no_such_parameter=1), "no_such_parameter"),
    ],
)
def test_a_bad_value_is_400_and_names_its_parameter(
    http: httpx.Client, body: bytes, param: str
) -> None:
    assert refusal(post(http, body), 400)["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (completion(prompt=[]), "prompt"),
        (completion(prompt=""), None),
        (completion(prompt=[1, "a"]), "prompt"),
        (completion(prompt=[-1]), "prompt[0]"),
        (completion(prompt=[10**6]), "prompt"),
        (completion(best_of=21), "best_of"),
        (completion(best_of=1, n=2), "best_of"),
        (completion(suffix="x"), "suffix"),
        (completion(logprobs=6), "logprobs"),
        (completion(max_tokens=10**6, min_tokens=10**5), "min_tokens"),
        (completion(max_tokens=2**31), "max_tokens"),
    ],
)
def test_a_bad_completion_is_400_and_names_its_parameter(
    http: httpx.Client, body: bytes, param: str | None
) -> None:
    answer = post(http, body, COMPLETIONS)
    if param is None:
        # This Llama puts a token before every text, so an empty one can be continued.
        assert answer.status_code == 200
    else:
        assert refusal(answer, 400)["param"] == param


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "\x00", "x" * 10**6])
def test_an_unknown_model_is_404_and_its_name_is_cut(http: httpx.Client, name: str) -> None:
    error = refusal(post(http, chat(model=name)), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_a_conversation_longer_than_the_context_is_400_before_any_token(http: httpx.Client) -> None:
    error = refusal(post(http, chat(messages=[{"role": "user", "content": "x y " * 9000}])), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_roles_that_the_models_template_refuses_are_400_with_its_words(http: httpx.Client) -> None:
    body = chat(model="tiny-gemma", messages=[{"role": "assistant", "content": "x"}])
    error = refusal(post(http, body), 400)
    assert error["param"] == "messages"
    assert "in turn" in error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_not_declared_as_json_is_415(http: httpx.Client, kind: str) -> None:
    refusal(http.post(CHAT, content=chat(), headers={"content-type": kind}), 415)


def test_json_with_a_character_set_is_json(http: httpx.Client) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert http.post(CHAT, content=chat(), headers=headers).status_code == 200


@pytest.mark.parametrize("declared", [{"content-length": str(10 * 2**30)}, {}])
def test_a_body_of_ten_gigabytes_is_413_whether_it_says_so_or_not(
    http: httpx.Client, declared: dict[str, str]
) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b" " * 2**20

    headers = {"content-type": "application/json", **declared}
    refusal(http.post(CHAT, content=endless(), headers=headers), 413)


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/v1/chat/completions/x", "/nothing%0a"])
def test_an_unknown_path_is_404(http: httpx.Client, path: str) -> None:
    refusal(http.get(path), 404)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/v1/messages/", "/v1/responses/x/cancel/"]
)
def test_a_path_with_a_slash_behind_it_is_unknown(http: httpx.Client, path: str) -> None:
    assert http.post(path, json={}).status_code == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("arguments", ['{"a":"\\ud800"}', '{"a":' * 600 + "1" + "}" * 600])
def test_arguments_that_no_template_takes_are_rendered(
    http: httpx.Client, path: str, arguments: str
) -> None:
    question, call = {"role": "user", "content": "hi"}, {"name": "f", "arguments": arguments}
    body: dict[str, object] = {"model": "default", "max_tokens": 16}
    if path == "/v1/responses":
        item = {"type": "function_call", "call_id": "a", **call}
        body = {"model": "default", "max_output_tokens": 16, "input": [question, item]}
    else:
        calls = [{"id": "a", "type": "function", "function": call}]
        body["messages"] = [question, {"role": "assistant", "tool_calls": calls}]
    answer = http.post(path, json=body)
    assert answer.status_code in (200, 400), answer.text
    assert answer.status_code == 200 or "context" in answer.text


@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_an_unknown_path_is_404_whatever_the_body_is(http: httpx.Client, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    refusal(http.post("/v1/nothing", content=b"x", headers=headers), 404)
    refusal(http.post("/v1/models", content=b"x", headers=headers), 405)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("QUERY", CHAT),
        ("BREW", COMPLETIONS),
        ("DELETE", COMPLETIONS),
        ("POST", "/health"),
        ("TRACE", "/metrics"),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_ones(
    http: httpx.Client, method: str, path: str
) -> None:
    answer = http.request(method, path, headers={"content-type": "application/json"})
    refusal(answer, 405)
    assert answer.headers["allow"]


def test_after_all_that_the_worker_is_the_same_and_idle(daemon: Daemon) -> None:
    report = daemon.wait_until("requests.running", be=0)
    assert report["worker"]["restarts"] == 0
    assert report["status"] == "healthy"
