"""Several services behind nginx: sessions stay, ids find their replica, and none is missed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.replicas import (
    CONFIGURATION,
    REPLICA,
    Fleet,
    find_session,
    fleet,
    main_file,
    nginx,
)
from tests.e2e.stopping import stopped
from tests.e2e.system_programs import find_program
from tests.waiting import HANG_S, wait_for

pytestmark = pytest.mark.long

OK, NOT_FOUND, INVALID = httpx.codes.OK, httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST
MAX_BODY_BYTES = 16 << 20
HEX = "0123456789abcdef" * 2
PROMPT = "Once upon a time there was a fox who lived in a wood. " * 3
LONG_ANSWER = {"max_tokens": 400, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def replicas() -> Iterator[Fleet]:
    find_program("nginx")
    with fleet() as made:
        yield made


@pytest.fixture(scope="module")
def url(replicas: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("nginx") / "a", replicas.ports) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with plain_http.client(url) as client:
        yield client


def complete(http: httpx.Client, session: str, **body: Any) -> httpx.Response:
    """A short completion in a session."""
    asked = {"model": "default", "prompt": PROMPT, "max_tokens": 4, "temperature": 0, **body}
    return http.post("/v1/completions", json=asked, headers={"x-session-id": session})


def respond(http: httpx.Client, session: str, **body: Any) -> httpx.Response:
    """A short response in a session."""
    asked = {"model": "default", "input": "Hello", "max_output_tokens": 4, **body}
    return http.post("/v1/responses", json=asked, headers={"x-session-id": session})


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which is OpenAI's."""
    assert reply.headers["content-type"] == "application/json"
    found: dict[str, Any] = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_nginx_accepts_the_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(main_file(tmp_path, CONFIGURATION))
    main = str(tmp_path / "nginx.conf")
    command = [find_program("nginx"), "-t", "-p", str(tmp_path), "-c", main, "-e", "stderr"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "test is successful" in ran.stderr, ran.stderr
    assert "[warn]" not in ran.stderr


@pytest.mark.parametrize("tag", ["a", "b"])
def test_a_session_finds_its_prompt_cached(http: httpx.Client, tag: str) -> None:
    session = find_session(http, tag)
    prompt = f"The replica {tag}. {PROMPT}"
    first, second = (complete(http, session, prompt=prompt) for _ in range(2))
    assert first.headers[REPLICA] == second.headers[REPLICA] == tag
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_key_stays_with_a_replica_and_a_session_comes_before_it(http: httpx.Client) -> None:
    def ask(**headers: str) -> str:
        return str(http.get("/v1/models", headers=headers).headers[REPLICA])

    keys = [f"Bearer key-{number}" for number in range(100)]
    for name in ("authorization", "x-api-key"):
        found = [ask(**{name: key}) for key in keys]
        assert set(found) == {"a", "b"}
        assert found == [ask(**{name: key}) for key in keys]
    session = find_session(http, "b")
    assert {ask(**{"authorization": key, "x-session-id": session}) for key in keys} == {"b"}
    assert len({ask() for _ in keys}) == 1


@pytest.mark.parametrize("tag", ["a", "b"])
@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_what_a_replica_keeps_is_found_by_its_id(http: httpx.Client, tag: str, prefix: str) -> None:
    made = respond(http, find_session(http, tag), background=True, stream=False).json()
    assert made["id"].startswith(f"resp_{tag}_")
    path = f"{prefix}/responses/{made['id']}"
    for method, rest in [("POST", "/cancel"), ("GET", ""), ("GET", "/input_items"), ("DELETE", "")]:
        # As a client without a session, and whatever session it is in.
        for session in ("", find_session(http, "a"), find_session(http, "b")):
            reply = http.request(method, path + rest, headers={"x-session-id": session})
            assert reply.headers[REPLICA] == tag
            if reply.status_code == OK and method == "DELETE":
                break
            assert reply.status_code == OK, reply.text
    assert http.get(path).status_code == NOT_FOUND


@pytest.mark.parametrize("tag", ["a", "b"])
def test_the_events_of_a_background_response_are_replayed_by_its_id(
    http: httpx.Client, tag: str
) -> None:
    live = respond(http, find_session(http, tag), background=True, stream=True)
    first = live.text.partition("\n\n")[0]
    id = first.partition('"id":"')[2].partition('"')[0]
    again = http.get(f"/v1/responses/{id}", params={"stream": "true"})
    assert again.headers[REPLICA] == tag
    assert again.text.count("event:") == live.text.count("event:") > 0


@pytest.mark.parametrize("tag", ["a", "b"])
def test_a_conversation_is_found_by_its_id(http: httpx.Client, tag: str) -> None:
    session = find_session(http, tag)
    made = http.post("/v1/conversations", json={}, headers={"x-session-id": session}).json()
    assert made["id"].startswith(f"conv_{tag}_")
    path = f"/v1/conversations/{made['id']}"
    item = {"type": "message", "role": "user", "content": "Hello"}
    added = http.post(f"{path}/items", json={"items": [item]}).json()["data"]
    assert added[0]["id"].startswith(f"msg_{tag}_")
    assert http.get(f"{path}/items/{added[0]['id']}").json() == added[0]
    assert respond(http, session, conversation=made["id"]).status_code == OK
    assert len(http.get(f"{path}/items").json()["data"]) > 1
    assert http.delete(path).headers[REPLICA] == tag


@pytest.mark.parametrize(
    "id",
    [
        f"resp_zz_{HEX}",
        f"resp_ab_{HEX}",
        f"resp_A_{HEX}",
        f"RESP_a_{HEX}",
        "resp_b_12",
        "resp_b_",
        "resp_",
        f"resp_{HEX}",
        f"resp_{'a' * 40}_{HEX}",
        f"resp_b%5f{HEX}",
        f"conv_b_{HEX}",
    ],
)
def test_an_id_that_no_replica_has_made_is_unknown_in_words(http: httpx.Client, id: str) -> None:
    for method, path in [("GET", id), ("DELETE", id), ("POST", f"{id}/cancel")]:
        reply = http.request(method, f"/v1/responses/{path}")
        assert reply.status_code == NOT_FOUND
        assert "not found" in error_of(reply)["message"]


def test_what_another_replica_keeps_is_refused_and_named(http: httpx.Client) -> None:
    own, other = find_session(http, "a"), find_session(http, "b")
    response = respond(http, other).json()
    conversation = http.post("/v1/conversations", json={}, headers={"x-session-id": other}).json()
    item = {"type": "item_reference", "id": response["output"][0]["id"]}
    bodies: dict[str, dict[str, Any]] = {
        "previous_response_id": {"previous_response_id": response["id"]},
        "conversation": {"conversation": conversation["id"]},
        "input[0].id": {"input": [item]},
    }
    for param, body in bodies.items():
        assert respond(http, other, **body).status_code == OK
        reply = respond(http, own, **body)
        assert reply.status_code == INVALID
        error = error_of(reply)
        assert "it is of replica `b`, and this is replica `a`" in error["message"]
        assert error["param"] == param


def test_what_is_each_replicas_own_is_not_passed_on(http: httpx.Client) -> None:
    for path in ("/metrics", "/status", "/"):
        assert error_of(http.get(path))["code"] == "not_found"
    loaded = http.post("/admin/models/mlxd-demo/load", json={})
    assert error_of(loaded)["code"] == "not_found"
    assert http.get("/health").json() == {"status": "healthy"}


def test_the_largest_body_passes(http: httpx.Client) -> None:
    body = b'{"model":"default","prompt":"Hello","max_tokens":1}'.ljust(MAX_BODY_BYTES)
    headers = {"content-type": "application/json"}
    assert http.post("/v1/completions", content=body, headers=headers).status_code == OK


@pytest.mark.parametrize(
    ("path", "place", "word"),
    [
        ("/v1/completions", "code", "body_too_large"),
        ("/v1/messages", "type", "request_too_large"),
    ],
)
def test_a_larger_body_is_refused_before_it_is_sent(
    url: str, path: str, place: str, word: str
) -> None:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=HANG_S)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(MAX_BODY_BYTES + 1))
        connection.endheaders()
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("content-type")) == (413, "application/json")
        assert json.load(reply)["error"][place] == word


def begin_long_answer(
    http: httpx.Client, session: str, worker: int
) -> tuple[httpx.Response, Iterator[str]]:
    """A stream that has begun and has not ended, of a worker that is stopped by now."""
    body = {"model": "default", "prompt": PROMPT, **LONG_ANSWER}
    while True:
        request = http.build_request(
            "POST", "/v1/completions", json=body, headers={"x-session-id": session}
        )
        reply = http.send(request, stream=True)
        lines = reply.iter_lines()
        next(lines)
        os.kill(worker, signal.SIGSTOP)
        for line in lines:
            # The sign of life of a stream without tokens.
            if line.startswith(":"):
                return reply, lines
        # It had ended before its worker was stopped.
        reply.close()
        os.kill(worker, signal.SIGCONT)


def test_a_killed_replica_costs_no_request_that_has_not_begun(
    replicas: Fleet, http: httpx.Client, url: str
) -> None:
    sessions = {tag: [find_session(http, tag, n) for n in range(8)] for tag in "ab"}
    begun, lines = begin_long_answer(http, sessions["a"][0], replicas.worker("a"))

    def ask(session: str, number: int) -> httpx.Response:
        with plain_http.client(url) as client:
            # Some bodies are large: they are sent again, too.
            body = {"suffix": None, "user": "x" * (1 << 20)} if number % 2 else {}
            return complete(client, session, stream=number % 4 < 2, **body)

    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(ask, session, number)
            for tag in "ab"
            for number, session in enumerate(sessions[tag])
        ]
        # The worker of a is stopped: none of its answers begins.
        replicas.replicas["a"].wait_for(lambda: replicas.in_flight("a") > len(sessions["a"]))
        replicas.kill("a")
        replies = [each.result() for each in asked]
    assert [reply.status_code for reply in replies] == [OK] * 16
    assert {reply.headers[REPLICA] for reply in replies} == {"b"}
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        list(lines)
    begun.close()
    assert complete(http, sessions["a"][0]).headers[REPLICA] == "b"
    gone = http.get(f"/v1/responses/resp_a_{HEX}")
    assert (gone.status_code, error_of(gone)["code"]) == (503, "unavailable")
    assert gone.headers["retry-after"]
    replicas.restart("a")
    wait_for(lambda: complete(http, sessions["a"][0]).headers[REPLICA] == "a")


def test_a_replica_is_replaced_without_a_failed_request(
    replicas: Fleet, http: httpx.Client
) -> None:
    session, worker = find_session(http, "a"), replicas.worker("a")
    kept = respond(http, session).json()["id"]
    begun, lines = begin_long_answer(http, session, worker)
    old = replicas.replicas["a"]
    old.signal(signal.SIGTERM)
    old.wait_until("status", be="draining")
    for _ in range(3):
        reply = complete(http, session)
        assert (reply.status_code, reply.headers[REPLICA]) == (OK, "b")
    assert http.get("/health").json() == {"status": "healthy"}
    # What it keeps is still read, and the answer that it had begun is whole.
    assert http.get(f"/v1/responses/{kept}").status_code == OK
    os.kill(worker, signal.SIGCONT)
    assert "data: [DONE]" in list(lines)
    begun.close()
    assert old.wait() == 0
    # nginx has asked it for its health, and for no answer.
    assert '"error":"draining"' not in old.output
    assert complete(http, session).headers[REPLICA] == "b"
    replicas.restart("a")
    # Requests come all the time.
    answers: list[httpx.Response] = []

    def is_back() -> bool:
        answers.append(complete(http, session))
        return answers[-1].headers[REPLICA] == "a"

    wait_for(is_back)
    assert {answer.status_code for answer in answers} == {OK}


def test_a_replica_that_is_stopped_gets_no_new_requests(
    replicas: Fleet, http: httpx.Client, tmp_path: Path
) -> None:
    session = find_session(http, "a")
    with (
        nginx(tmp_path / "impatient", replicas.ports, patient=False) as url,
        stopped(replicas.replicas["a"].process.pid),
    ):

        def is_answered() -> bool:
            # On a busy machine b may seem to be stopped, too, for a moment.
            with httpx.Client(base_url=url, timeout=20, verify=False) as client:
                try:
                    reply = complete(client, session)
                except httpx.TimeoutException:
                    return False
            return reply.status_code == OK and reply.headers[REPLICA] == "b"

        wait_for(is_answered)


def test_a_stream_is_passed_on_as_it_comes(replicas: Fleet, http: httpx.Client) -> None:
    worker = replicas.worker("b")
    begun, lines = begin_long_answer(http, find_session(http, "b"), worker)
    os.kill(worker, signal.SIGCONT)
    assert "data: [DONE]" in list(lines)
    begun.close()


def test_without_any_replica_the_error_is_one_that_clients_repeat(tmp_path: Path) -> None:
    # Nobody listens on port 1.
    with (
        nginx(tmp_path / "alone", {"a": 1, "b": 1}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="not available now") as refused:
            client.models.list()
        assert refused.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
        reply = plain_http.post(f"{url}/v1/messages", json={})
        assert reply.headers["retry-after"]
        assert reply.json()["error"]["type"] == "overloaded_error"
