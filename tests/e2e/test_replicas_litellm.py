"""Several services behind LiteLLM's proxy, with the shipped file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.clients.scenario import DEFAULT_ENVIRONMENTS
from tests.e2e.daemon import free_port
from tests.e2e.replicas import Fleet, fleet
from tests.sources import ROOT
from tests.waiting import HANG_S, wait_for

pytestmark = pytest.mark.long

CONFIGURATION = ROOT / "deploy" / "litellm.yaml"
KEY = "sk-0123456789abcdef0123456789abcdef"
REPLICA = "llm_provider-x-mlxd-replica"
# It imports for ten seconds where nothing else runs.
START_S = 900.0
OK = httpx.codes.OK


def find_litellm() -> Path:
    """LiteLLM's command in the environment of `make clients`; without it the test is skipped."""
    environments = Path(os.environ.get("CLIENTS_FOLDER", DEFAULT_ENVIRONMENTS))
    found = environments / "litellm" / "bin" / "litellm"
    if not found.exists():
        if "CI" in os.environ or os.environ.get("CLIENTS") == "required":
            pytest.fail("LiteLLM is not there: make clients")
        pytest.skip("LiteLLM is not there: make clients")
    return found


@pytest.fixture(scope="module")
def replicas() -> Iterator[Fleet]:
    find_litellm()
    with fleet() as made:
        yield made


@pytest.fixture(scope="module")
def http(replicas: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    text = CONFIGURATION.read_text()
    for shipped, own in {"8001": replicas.ports["a"], "8002": replicas.ports["b"]}.items():
        assert text.count(f"http://127.0.0.1:{shipped}/v1") == 1
        text = text.replace(f"127.0.0.1:{shipped}/", f"127.0.0.1:{own}/")
    config, log = folder / "config.yaml", folder / "log"
    config.write_text(text)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [find_litellm(), "--config", config, "--host", "127.0.0.1", "--port", str(port)],
            env={**environ, "LITELLM_MASTER_KEY": KEY},
            stdout=output,
            stderr=output,
        )
    try:
        with plain_http.client(f"http://127.0.0.1:{port}") as client:
            client.headers["authorization"] = f"Bearer {KEY}"
            wait_for(lambda: is_alive(client, process), log.read_text, hang_s=START_S)
            yield client
    finally:
        process.terminate()
        process.wait(HANG_S)


def is_alive(http: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Whether the proxy answers."""
    assert process.poll() is None, "the proxy has ended"
    try:
        return http.get("/health/liveliness").status_code == OK
    except httpx.ConnectError:
        return False


def chat(http: httpx.Client, session: str) -> httpx.Response:
    """A short chat in a session."""
    messages = [{"role": "user", "content": "Once upon a time there was a fox. " * 4}]
    asked = {"model": "default", "messages": messages, "max_tokens": 4, "temperature": 0}
    reply = http.post("/v1/chat/completions", json=asked, headers={"x-session-id": session})
    assert reply.status_code == OK, reply.text
    return reply


def find_session(http: httpx.Client, tag: str) -> str:
    """A new session of this replica: LiteLLM chooses by chance."""
    for number in range(1000):
        session = f"session-{tag}-{number}-{os.urandom(4).hex()}"
        if chat(http, session).headers[REPLICA] == tag:
            return session
    pytest.fail(f"no session of 1000 is the replica {tag}'s")


@pytest.mark.parametrize("tag", ["a", "b"])
def test_a_session_finds_its_prompt_cached(http: httpx.Client, tag: str) -> None:
    session = find_session(http, tag)
    for _ in range(8):
        reply = chat(http, session)
        assert reply.headers[REPLICA] == tag
        assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("tag", ["a", "b"])
def test_a_response_is_found_and_gone_on_from_by_its_id(http: httpx.Client, tag: str) -> None:
    def respond(session: str, **body: Any) -> httpx.Response:
        asked = {"model": "default", "input": "Hello", "max_output_tokens": 4, **body}
        reply = http.post("/v1/responses", json=asked, headers={"x-session-id": session})
        assert (reply.status_code, reply.headers[REPLICA]) == (OK, tag), reply.text
        return reply

    id = respond(find_session(http, tag)).json()["id"]
    other = find_session(http, "b" if tag == "a" else "a")
    respond(other, previous_response_id=id)
    assert http.get(f"/v1/responses/{id}").status_code == OK
    assert http.delete(f"/v1/responses/{id}").status_code == OK
    assert http.get(f"/v1/responses/{id}").status_code == httpx.codes.NOT_FOUND


def test_a_killed_replica_costs_no_request_that_has_not_begun(
    replicas: Fleet, http: httpx.Client
) -> None:
    sessions = {tag: find_session(http, tag) for tag in "ab"}
    replicas.kill("a")
    for _ in range(4):
        assert {chat(http, session).headers[REPLICA] for session in sessions.values()} == {"b"}
    replicas.restart("a")
    find_session(http, "a")


def test_a_replica_that_drains_gets_no_new_requests(replicas: Fleet, http: httpx.Client) -> None:
    session = find_session(http, "a")
    replicas.replicas["a"].stop()
    assert chat(http, session).headers[REPLICA] == "b"
    replicas.restart("a")
    find_session(http, "a")
