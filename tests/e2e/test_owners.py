"""What one key has stored is to another key as if it were not there, on every way to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import ADMIN, KEYS, NAMED, PLAIN, bearer

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
USER = {"role": "user", "content": "a secret of one key"}
ENDLESS = 900_000


@pytest.fixture(scope="module", params=["memory", "file"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    path = tmp_path_factory.mktemp("store") / "responses.db"
    store = "memory" if request.param == "memory" else str(path)
    with faulty("--response-store", store, environ=KEYS) as daemon:
        yield daemon


@pytest.fixture
def owner(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        client.headers.update(bearer(NAMED))
        yield client


@pytest.fixture(params=[PLAIN, ADMIN], ids=["key", "admin key"])
def other(request: pytest.FixtureRequest, service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        client.headers.update(bearer(request.param))
        yield client


def create(http: httpx.Client, **more: Any) -> dict[str, Any]:
    body = {"model": "fake", "input": [USER], "max_output_tokens": 3, **more}
    reply = http.post(RESPONSES, json=body)
    assert reply.status_code == httpx.codes.OK, reply.text
    made: dict[str, Any] = reply.json()
    return made


def assert_unknown(other: httpx.Client, method: str, path: str, id: str, **options: Any) -> None:
    """The same words, but for the id, as for one that never was."""
    nobodys = id.rpartition("_")[0] + "_" + "0" * 32
    theirs = other.request(method, path.replace("ID", id), **options)
    assert theirs.status_code in (400, 404), (method, path, theirs.text)
    unknown = other.request(method, path.replace("ID", nobodys), **options)
    assert theirs.text.replace(id, nobodys) == unknown.text
    assert USER["content"] not in theirs.text


def test_a_response_cannot_be_read_ended_or_deleted_by_another(
    owner: httpx.Client, other: httpx.Client
) -> None:
    running = create(owner, background=True, max_output_tokens=ENDLESS)["id"]
    ended = create(owner)["id"]
    for id in (running, ended):
        for query in ("", "?stream=true", "?include[]=reasoning.encrypted_content"):
            assert_unknown(other, "GET", f"{RESPONSES}/ID{query}", id)
        assert_unknown(other, "GET", f"{RESPONSES}/ID/input_items", id)
        assert_unknown(other, "POST", f"{RESPONSES}/ID/cancel", id)
        assert_unknown(other, "DELETE", f"{RESPONSES}/ID", id)
    assert owner.get(f"{RESPONSES}/{running}").json()["status"] in ("queued", "in_progress")
    assert owner.post(f"{RESPONSES}/{running}/cancel").json()["status"] == "cancelled"
    assert owner.get(f"{RESPONSES}/{ended}").json()["id"] == ended


def test_a_conversation_cannot_be_read_changed_or_deleted_by_another(
    owner: httpx.Client, other: httpx.Client
) -> None:
    made = owner.post(CONVERSATIONS, json={"items": [USER], "metadata": {"a": "b"}}).json()
    id = made["id"]
    item = owner.get(f"{CONVERSATIONS}/{id}/items").json()["data"][0]["id"]
    one = f"{CONVERSATIONS}/ID"
    assert_unknown(other, "GET", one, id)
    assert_unknown(other, "POST", one, id, json={"metadata": {}})
    assert_unknown(other, "DELETE", one, id)
    assert_unknown(other, "GET", f"{one}/items", id)
    assert_unknown(other, "POST", f"{one}/items", id, json={"items": [USER]})
    assert_unknown(other, "GET", f"{one}/items/{item}", id)
    assert_unknown(other, "DELETE", f"{one}/items/{item}", id)
    assert owner.get(f"{CONVERSATIONS}/{id}").json() == made
    assert len(owner.get(f"{CONVERSATIONS}/{id}/items").json()["data"]) == 1


@pytest.mark.parametrize("path", [RESPONSES, f"{RESPONSES}/input_tokens"])
def test_no_prompt_has_what_another_has_stored(
    owner: httpx.Client, other: httpx.Client, path: str
) -> None:
    made = create(owner)
    conversation = owner.post(CONVERSATIONS, json={"items": [USER]}).json()["id"]
    output = made["output"][0]["id"]
    asked: list[tuple[str, dict[str, Any]]] = [
        (made["id"], {"previous_response_id": "ID", "input": "go on"}),
        (conversation, {"conversation": "ID", "input": "go on"}),
        (conversation, {"conversation": {"id": "ID"}, "input": "go on"}),
        (output, {"input": [{"type": "item_reference", "id": "ID"}, USER]}),
        (output, {"input": [{"id": "ID"}, USER]}),
    ]
    for id, fields in asked:
        nobodys = id.rpartition("_")[0] + "_" + "0" * 32
        theirs = other.post(path, json=filled({"model": "fake", **fields}, id))
        unknown = other.post(path, json=filled({"model": "fake", **fields}, nobodys))
        assert theirs.status_code in (400, 404), theirs.text
        assert theirs.text.replace(id, nobodys) == unknown.text
        assert owner.post(path, json=filled({"model": "fake", **fields}, id)).is_success


def filled(value: Any, id: str) -> Any:
    """The value with this id in the place of `ID`."""
    if isinstance(value, dict):
        return {key: filled(each, id) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, id) for each in value]
    return id if value == "ID" else value


def test_a_key_is_the_same_owner_in_either_header(owner: httpx.Client, service: Daemon) -> None:
    id = create(owner)["id"]
    with plain_http.client(service.url) as same:
        found = same.get(f"{RESPONSES}/{id}", headers={"x-api-key": NAMED})
    assert found.json()["id"] == id
