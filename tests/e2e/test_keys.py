"""API keys: which requests are served, how many, and what is never shown."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.faulty import faulty
from tests.e2e.keys import ADMIN, KEYS, NAMED, PLAIN, SECRETS, bearer
from tests.e2e.wire import connect, head, read_answer
from tests.waiting import HANG_S

ASKED = {"model": "fake", "prompt": "x", "max_tokens": 5}
WRONG = {
    "absent": {},
    "empty": {"authorization": ""},
    "without a token": {"authorization": "Bearer"},
    "unknown": {"authorization": "Bearer environment-key-9999"},
    "cut short": {"authorization": f"Bearer {PLAIN[:-1]}"},
    "too long": {"authorization": f"Bearer {PLAIN}x"},
    "of another scheme": {"authorization": f"Basic {PLAIN}"},
    "bare": {"authorization": PLAIN},
    "not ASCII": {"authorization": "Bearer schlüssel-schlüssel"},
    "with its name": {"authorization": f"Bearer alice:{NAMED}"},
    "hashed": {"authorization": f"Bearer {hashlib.sha256(PLAIN.encode()).hexdigest()}"},
}


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    """A service with keys from its environment."""
    with faulty(environ=KEYS) as daemon:
        yield daemon


@pytest.fixture
def http(own: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(own.url) as client:
        yield client


# ---------------------------------------------------------------- who is served


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_without_a_right_key_every_request_is_401(
    http: httpx.Client, headers: dict[str, str]
) -> None:
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    for method, path in (
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("GET", "/v1/models/"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
        ("GET", "/health/"),
        ("GET", "/%68ealth/x"),
        ("GET", "/assets"),
        ("GET", "/nowhere"),
        ("GET", "/admin/models"),
        ("OPTIONS", "/v1/completions"),
        ("HEAD", "/v1/models"),
        ("DELETE", "/v1/models/fake"),
    ):
        body = ASKED if method == "POST" else None
        refused = http.request(method, path, headers=raw, json=body)
        assert refused.status_code == 401, (method, path)
        assert refused.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert refused.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["//health", "/./health", "/v1/../health", "http://localhost/v1/models", "/health%2f"]
)
def test_no_way_of_writing_a_path_leads_around_the_key(own: Daemon, path: str) -> None:
    with connect(own) as client:
        client.sendall(head("GET", path))
        assert read_answer(client)[0] == 401


@pytest.mark.parametrize(
    ("path", "key", "headers", "status"),
    [
        ("/v1/completions", "wrong", ("Content-Type: application/json",), 401),
        ("/v1/completions", PLAIN, ("Content-Type: text/plain",), 415),
        ("/v1/completions", PLAIN, ("Content-Type: application/json", "Origin: http://x.y"), 403),
        ("/admin/models/fake/load", PLAIN, ("Content-Type: application/json",), 403),
        ("/nowhere", PLAIN, ("Content-Type: application/json",), 404),
        ("/v1/models", PLAIN, ("Content-Type: application/json",), 405),
    ],
)
def test_no_body_is_asked_for_before_a_refusal_by_the_headers(
    own: Daemon, path: str, key: str, headers: tuple[str, ...], status: int
) -> None:
    waiting = ("Expect: 100-continue", "Content-Length: 10", f"Authorization: Bearer {key}")
    with connect(own) as client:
        client.sendall(head("POST", path, *waiting, *headers))
        assert read_answer(client)[0] == status


def test_two_keys_at_once_are_none(own: Daemon) -> None:
    with connect(own) as client:
        twice = [f"Authorization: Bearer {key}" for key in (PLAIN, "another-key-0001")]
        client.sendall(head("GET", "/v1/models", *twice))
        assert read_answer(client)[0] == 401


@pytest.mark.parametrize("key", SECRETS)
def test_with_any_of_the_keys_a_request_is_served(http: httpx.Client, key: str) -> None:
    assert http.get("/v1/models", headers=bearer(key)).status_code == 200
    assert http.post("/v1/completions", json=ASKED, headers=bearer(key)).status_code == 200


def test_the_scheme_s_letters_may_be_of_any_size(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"authorization": f"bEARER  {PLAIN}"}).status_code == 200


def test_the_request_that_the_start_screen_shows_has_a_place_for_a_key(own: Daemon) -> None:
    [curl] = [line for line in own.lines if line.startswith("curl")]
    shown = curl.replace("YOUR_KEY", PLAIN).rstrip() + " --silent --fail"
    answered = subprocess.run(
        shown, shell=True, capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert answered.stdout.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        ([("x-api-key", NAMED)], True),
        ([("authorization", f"Bearer {PLAIN}"), ("x-api-key", "unknown-key-00001")], True),
        ([("authorization", "Bearer unknown-key-00001"), ("x-api-key", NAMED)], True),
        ([("authorization", f"Basic {PLAIN}"), ("x-api-key", NAMED)], True),
        ([("x-api-key", NAMED), ("x-api-key", NAMED)], False),
        ([("authorization", f"Bearer {PLAIN}"), ("x-api-key", "a"), ("x-api-key", "b")], True),
        ([("x-api-key", f"Bearer {NAMED}")], False),
        ([("x-api-key", "")], False),
    ],
)
def test_a_key_may_be_in_either_of_two_headers(
    http: httpx.Client, headers: list[tuple[str, str]], is_served: bool
) -> None:
    answer = http.get("/v1/models", headers=headers)
    assert answer.status_code == (200 if is_served else 401)
    assert is_served or "x-api-key" in answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_without_a_right_key_is_the_status_alone(
    http: httpx.Client, method: str, headers: dict[str, str]
) -> None:
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    response = http.request(method, "/health", headers=raw)
    assert response.status_code == 200
    if method == "GET":
        assert response.json() == {"status": "healthy"}


def test_health_with_a_key_is_the_whole_state(http: httpx.Client) -> None:
    for key in SECRETS:
        assert http.get("/health", headers=bearer(key)).json()["worker"]["restarts"] == 0


def test_file_paths_are_for_administrators(llama_path: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "private folder" / "of-bob"
    asked = {**ASKED, "model": "gone"}
    pages = ("/health", "/status", "/v1/models", "/v1/models/gone")
    with (
        running(llama_path, flags=["--model", f"gone={hidden}"], environ=KEYS) as own,
        plain_http.client(own.url) as http,
    ):
        refusal = http.post("/v1/completions", json=asked, headers=bearer(ADMIN))
        assert str(hidden) in refusal.json()["error"]["message"]
        told = [http.get("/health").text]
        for key in (PLAIN, NAMED):
            told += [http.get(path, headers=bearer(key)).text for path in (*pages, "/metrics")]
            for stream in (False, True):
                sent = {**asked, "stream": stream}
                told.append(http.post("/v1/completions", json=sent, headers=bearer(key)).text)
        for path in pages:
            assert str(hidden) in http.get(path, headers=bearer(ADMIN)).text
    assert not any("private" in text or "of-bob" in text for text in told)


def test_the_page_is_open_and_all_that_it_shows_needs_a_key(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text)
    assert assets
    for path in assets:
        assert http.get(path).status_code == 200
    for path in ("/status", "/metrics", "/v1/models", "/assets/../status", "/assets%2f../status"):
        assert http.get(path).status_code == 401


def test_the_openai_client_presents_its_key_and_is_told_of_a_wrong_one(own: Daemon) -> None:
    def complete(key: str) -> str:
        with openai.OpenAI(base_url=f"{own.url}/v1", api_key=key, max_retries=0) as client:
            done = client.completions.create(model="fake", prompt="x", max_tokens=5)
            return done.choices[0].text

    assert complete(NAMED)
    with pytest.raises(openai.AuthenticationError) as caught:
        complete("sk-wrong")
    assert caught.value.code == "invalid_api_key"


def test_administration_needs_an_administrators_key(http: httpx.Client) -> None:
    for path in ("/admin", "/admin/models"):
        refused = http.get(path, headers=bearer(NAMED))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
        # Not refused; whether there is such a route is another matter.
        assert http.get(path, headers=bearer(ADMIN)).status_code not in (401, 403)


def test_no_key_is_ever_logged_or_handed_to_the_worker(own: Daemon) -> None:
    plain_http.get(f"{own.url}/v1/models", headers=bearer("a-wrong-key-that-came"))
    assert not any(secret in own.output for secret in (*SECRETS, "a-wrong-key-that-came"))
    health = plain_http.get(f"{own.url}/health", headers=bearer(PLAIN)).json()
    worker = health["worker"]["pid"]
    environ = Path(f"/proc/{worker}/environ")
    if environ.exists():
        assert b"environment-key" not in environ.read_bytes()


# ---------------------------------------------------------------- without keys


def test_without_keys_administration_is_for_this_machine_and_not_for_proxies_on_it(
    daemon: Daemon,
) -> None:
    assert plain_http.get(f"{daemon.url}/admin/nothing").status_code == 404
    for name in ("x-forwarded-for", "forwarded"):
        refused = plain_http.get(f"{daemon.url}/admin/nothing", headers={name: "127.0.0.1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")


def serve(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *flags]
    return subprocess.run(
        command,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_is_not_served_without_a_key(host: str) -> None:
    ended = serve("--host", host)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "no API key is configured" in line
    assert "--without-keys anyone-on-the-network" in line


@pytest.mark.parametrize(
    ("flags", "environ"),
    [(["--without-keys", "anyone-on-the-network"], {}), ([], KEYS)],
    ids=["said in plain words", "with keys"],
)
def test_an_address_that_others_reach_is_served_where_somebody_said_so(
    flags: list[str], environ: dict[str, str]
) -> None:
    with faulty("--host", "0.0.0.0", *flags, environ=environ, wait=False) as daemon:
        daemon.wait_until("status", be="healthy")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "contains no key"),
        (" , ", "contains no key"),
        ("short", "key 1 is not 16"),
        (f"{PLAIN},sh\u00f6rt-but-long-enough", "key 2 is not 16"),
        (f"a:b:{PLAIN}", "key 1 is none of"),
        (f"a:{PLAIN},a:{NAMED}", "two keys have the name a"),
        (f"a b:{PLAIN}", "key 1 is none of"),
    ],
)
def test_keys_that_cannot_be_used_end_the_start_and_are_not_repeated(
    value: str, reason: str
) -> None:
    ended = serve(MLXD_API_KEYS=value)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith("mlxd: MLXD_API_KEYS: ")
    assert reason in line
    assert PLAIN not in line


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"key": []}'])
def test_a_file_that_is_no_list_of_keys_ends_the_start(content: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    ended = serve("--keys-file", str(path))
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert f"{path}: is not a list of keys" in line


def test_a_file_that_was_named_and_is_not_there_ends_the_start(tmp_path: Path) -> None:
    ended = serve("--keys-file", str(tmp_path / "none.json"))
    assert ended.returncode == 2
    assert "there is no such file" in ended.stderr
