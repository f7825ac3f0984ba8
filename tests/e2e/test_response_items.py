"""What items leave to the service: encoded reasoning, references, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import Staged

OK = httpx.codes.OK
BAD_REQUEST = httpx.codes.BAD_REQUEST
# The prompt has the reasoning of earlier turns, so its length tells whether it was found.
TEMPLATE = (
    "{# <think> </think> #}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = Staged(
    "<think>\nIt greets me, and I think of an answer.\n</think>\n\nHello to you.",
    template=TEMPLATE,
    added=("<think>", "</think>"),
)
USER = {"role": "user", "content": "Hi"}
FOREIGN = "gAAAAABforeign"
ENCRYPTED = {"include": ["reasoning.encrypted_content"]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of a model that thinks, with a key of its own for encoded reasoning."""
    folder = tmp_path_factory.mktemp("staged")
    key = folder / "installation.key"
    flags = ["--installation-key-file", str(key)]
    with running(staged.make(THINKS, folder / "thinks"), flags=flags) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def create(http: httpx.Client, **body: Any) -> dict[str, Any]:
    """The response of the model that thinks."""
    reply = http.post("/v1/responses", json={"model": "default", "temperature": 0, **body})
    assert reply.status_code == OK, reply.text
    found: dict[str, Any] = reply.json()
    return found


def refusal(http: httpx.Client, **body: Any) -> dict[str, Any]:
    """The error of a request that is refused."""
    reply = http.post("/v1/responses", json={"model": "default", **body})
    assert reply.status_code == BAD_REQUEST, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


def count(http: httpx.Client, *items: dict[str, Any]) -> int:
    """The tokens of a second turn that replays these items."""
    asked = {"model": "default", "input": [USER, *items, USER]}
    reply = http.post("/v1/responses/input_tokens", json=asked)
    assert reply.status_code == OK, reply.text
    tokens: int = reply.json()["input_tokens"]
    return tokens


@pytest.fixture(scope="module")
def unstored(http: httpx.Client) -> list[dict[str, Any]]:
    """The reasoning and the message of a response of which nothing is stored."""
    output: list[dict[str, Any]] = create(http, input="Hi", store=False, **ENCRYPTED)["output"]
    return output


def test_encoded_reasoning_is_the_reasoning(
    http: httpx.Client, unstored: list[dict[str, Any]]
) -> None:
    reasoning, message = unstored
    plain = count(http, reasoning, message)
    assert plain > count(http, message)
    encoded = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": reasoning["encrypted_content"],
    }
    assert count(http, encoded, message) == plain
    assert reasoning["encrypted_content"].startswith("mlxd1.")


def test_reasoning_that_a_client_replays_by_its_id_alone_is_found(http: httpx.Client) -> None:
    reasoning, message = create(http, input="Hi")["output"]
    assert "encrypted_content" not in reasoning
    # As LangChain replays it after a stream.
    shell = {"type": "reasoning", "id": reasoning["id"], "summary": [], "content": []}
    plain = count(http, reasoning, message)
    assert count(http, {**shell, "status": "in_progress"}, message) == plain
    assert count(http, {**shell, "id": "rs_unknown"}, message) == count(http, message)


def test_of_a_foreign_servers_reasoning_the_text_counts(
    http: httpx.Client, unstored: list[dict[str, Any]]
) -> None:
    reasoning, message = unstored
    plain = count(http, reasoning, message)
    assert count(http, {**reasoning, "encrypted_content": FOREIGN}, message) == plain
    summary = [{"type": "summary_text", "text": reasoning["content"][0]["text"]}]
    summarised = {"type": "reasoning", "summary": summary, "encrypted_content": FOREIGN}
    assert count(http, summarised, message) == plain
    without = {"type": "reasoning", "summary": [], "encrypted_content": FOREIGN}
    error = refusal(http, input=[USER, without, message, USER])
    assert error["code"] == "invalid_encrypted_content"
    assert error["param"] == "input[1].encrypted_content"


def test_encoded_reasoning_that_was_changed_on_its_way_is_a_foreign_one(
    http: httpx.Client, unstored: list[dict[str, Any]]
) -> None:
    reasoning, message = unstored
    blob = reasoning["encrypted_content"]
    for place in (len("mlxd1."), len(blob) // 2, len(blob) - 2):
        other = "A" if blob[place] != "A" else "B"
        changed = blob[:place] + other + blob[place + 1 :]
        item = {"type": "reasoning", "summary": [], "encrypted_content": changed}
        assert refusal(http, input=[USER, item, USER])["code"] == "invalid_encrypted_content"
    cut = {"type": "reasoning", "summary": [], "encrypted_content": blob[:-8]}
    assert refusal(http, input=[USER, cut, USER])["code"] == "invalid_encrypted_content"
    assert count(http, {**reasoning, "encrypted_content": blob[:-8]}, message) > 0


def test_a_stored_response_can_be_read_with_its_encoded_reasoning(
    http: httpx.Client,
) -> None:
    made = create(http, input="Hi", **ENCRYPTED)
    path = f"/v1/responses/{made['id']}"
    query = {"include[]": "reasoning.encrypted_content"}
    found = http.get(path, params=query).json()["output"][0]
    assert found["encrypted_content"] == made["output"][0]["encrypted_content"]


def test_a_reference_is_the_item(http: httpx.Client) -> None:
    output = create(http, input="Hi")["output"]
    references = [{"type": "item_reference", "id": item["id"]} for item in output]
    assert count(http, *references) == count(http, *output)
    by_id_alone = [{"id": item["id"]} for item in output]
    assert count(http, *by_id_alone) == count(http, *output)
    again = create(http, input=[USER, *references, USER])
    items = http.get(f"/v1/responses/{again['id']}/input_items", params={"order": "asc"}).json()
    assert [item["id"] for item in items["data"][1:3]] == [item["id"] for item in output]
    assert {item["type"] for item in items["data"]} == {"message", "reasoning"}


def test_a_reference_to_nothing_is_refused(http: httpx.Client) -> None:
    for id, code in (
        ("msg_unknown", "item_not_found"),
        ("", "item_not_found"),
        (None, "invalid_type"),
    ):
        error = refusal(http, input=[USER, {"type": "item_reference", "id": id}])
        assert error["code"] == code
        assert error["param"] == "input[1].id"


def test_the_oldest_messages_of_a_long_prompt_are_dropped_and_it_is_said(
    llama_path: Path,
) -> None:
    flags = ["--context-limit-tokens", "256"]
    turns = [{"role": "user", "content": "old " * 100}, {"role": "assistant", "content": "yes"}]
    asked = {"model": "default", "input": [*turns, *turns, USER], "max_output_tokens": 4}
    with (
        running(llama_path, flags=flags) as daemon,
        plain_http.client(daemon.url) as http,
    ):
        kept = http.post("/v1/responses", json={**asked, "truncation": "auto"})
        assert kept.status_code == OK, kept.text
        assert int(kept.headers["x-mlxd-dropped-messages"]) in (2, 4)
        assert kept.json()["truncation"] == "auto"
        assert kept.json()["usage"]["input_tokens"] < 256
        for truncation in ("disabled", None):
            refused = http.post("/v1/responses", json={**asked, "truncation": truncation})
            assert refused.status_code == BAD_REQUEST
            assert refused.json()["error"]["code"] == "context_length_exceeded"
            assert refused.json()["error"]["param"] == "input"
        # The last message alone does not fit.
        body = {**asked, "input": "new " * 400, "truncation": "auto"}
        alone = http.post("/v1/responses", json=body)
        assert alone.json()["error"]["code"] == "context_length_exceeded"
