"""/v1/embeddings over HTTP: vectors of a real model, what is refused, and what goes on beside."""

from __future__ import annotations

import base64
import math
import os
import signal
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.embedders import CHAT, EMBEDDER, configure, table
from tests.e2e.faulty import faulty
from tests.e2e.keys import add_key, bearer
from tests.prompts import PROMPTS

PATH = "/v1/embeddings"
DIMENSIONS, SHORTER = 64, 16
# A model whose folder and configuration say nothing of its pooling.
ASSUMED = "assumed"
CONTEXT_TOKENS = 4096
TOLERANCE = 1e-5
FAKES = {"fake": "generation", "fake-embedder": "embedding", "fake-reranker": "rerank"}
KILLING: dict[str, dict[str, Any]] = {
    PATH: {"input": ["[die]"]},
    "/v1/rerank": {"query": "x", "documents": ["[die]"]},
}
# Enough that they are still being computed when another request comes, or the worker is killed.
MANY_TEXTS = 300
MANY_WORDS = 100


@pytest.fixture(scope="module")
def flags(llama_path: Path, qwen_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A chat model, a decoder with pooling whose vectors may be cut, and one that says nothing."""
    settings = {"pooling": '"lasttoken"', "dimensions": f"[{SHORTER}]"}
    settings["prompts"] = '{query = "find: "}'
    embedder = table(EMBEDDER, qwen_path, kind='"embedding"', **settings)
    assumed = table(ASSUMED, qwen_path, kind='"embedding"', preload="false")
    folder = tmp_path_factory.mktemp("embedders")
    return configure(folder, table(CHAT, llama_path), embedder, assumed)


@pytest.fixture(scope="module")
def service(flags: list[str]) -> Iterator[Daemon]:
    with running(flags=flags) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def embed(http: httpx.Client, texts: Any, **fields: Any) -> dict[str, Any]:
    response = http.post(PATH, json={"model": EMBEDDER, "input": texts, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vectors_of(answer: dict[str, Any]) -> list[Any]:
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return [each["embedding"] for each in answer["data"]]


def refusal(http: httpx.Client, **body: Any) -> tuple[int, str | None, str | None, str]:
    response = http.post(PATH, json={"model": EMBEDDER, **body})
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"], error["message"]


def difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_an_answer_has_a_vector_of_length_one_for_each_text_in_order(http: httpx.Client) -> None:
    answer = embed(http, list(PROMPTS))
    assert answer["object"] == "list"
    assert answer["model"] == EMBEDDER
    vectors = vectors_of(answer)
    assert len(vectors) == len(PROMPTS)
    for vector in vectors:
        assert len(vector) == DIMENSIONS
        assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5)
    usage = answer["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > len(PROMPTS)


def test_an_answer_says_where_its_time_went(service: Daemon, http: httpx.Client) -> None:
    plain_http.post(f"{service.url}/admin/models/{ASSUMED}/unload", json={})
    uses = []
    for _ in range(2):
        began = time.perf_counter()
        answer = embed(http, list(PROMPTS), model=ASSUMED)
        elapsed_ms = (time.perf_counter() - began) * 1000
        uses.append(answer["usage"]["mlxd"])
        assert 0 < sum(uses[-1].values()) <= elapsed_ms
    first, second = uses
    assert first["load_ms"] > 0 == second["load_ms"]
    assert all(use["preparation_ms"] > 0 < use["prefill_ms"] for use in uses)
    [shown] = http.get("/status").json()["recent"][:1]
    assert shown["load_ms"] == 0
    assert shown["prefill_ms"] == pytest.approx(second["prefill_ms"], abs=0.1)


def test_texts_of_mixed_lengths_together_have_the_vectors_that_they_have_alone(
    http: httpx.Client,
) -> None:
    together = vectors_of(embed(http, list(PROMPTS)))
    for text, vector in zip(PROMPTS, together, strict=True):
        [alone] = vectors_of(embed(http, text))
        assert difference(vector, alone) < TOLERANCE


def test_base64_has_the_same_float32_values(http: httpx.Client) -> None:
    numbers = vectors_of(embed(http, list(PROMPTS), encoding_format="float"))
    encoded = vectors_of(embed(http, list(PROMPTS), encoding_format="base64"))
    for vector, text in zip(numbers, encoded, strict=True):
        # Computed twice: how many texts share a device call depends on the time that it takes.
        decoded = list(struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(text)))
        assert difference(decoded, vector) < TOLERANCE


def test_a_shorter_vector_is_the_beginning_of_the_whole_one_with_a_length_of_one(
    http: httpx.Client,
) -> None:
    [whole] = vectors_of(embed(http, "water"))
    [cut] = vectors_of(embed(http, "water", dimensions=SHORTER))
    length = math.hypot(*whole[:SHORTER])
    assert difference(cut, [value / length for value in whole[:SHORTER]]) < TOLERANCE
    assert vectors_of(embed(http, "water", dimensions=DIMENSIONS)) == [whole]


def test_an_input_type_puts_the_models_prompt_before_each_text(http: httpx.Client) -> None:
    [plain] = vectors_of(embed(http, "find: water"))
    [query] = vectors_of(embed(http, "water", input_type="query"))
    [document] = vectors_of(embed(http, "water", input_type="document"))
    assert difference(query, plain) < TOLERANCE
    assert vectors_of(embed(http, "water")) == [document]
    assert difference(query, document) > TOLERANCE


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        ({"input": ""}, "invalid_value", "input", "empty"),
        ({"input": []}, "invalid_value", "input", "no text"),
        ({"input": ["a", ""]}, "invalid_value", "input[1]", "empty"),
        ({"input": ["a"] * 2049}, "array_above_max_length", "input", "2048"),
        ({"input": ["a", 5]}, "invalid_type", "input[1]", "another type"),
        ({"input": None}, "invalid_type", "input", "null"),
        ({"input": {"text": "a"}}, "invalid_type", "input", "object"),
        ({"input": [["a"]]}, "invalid_type", "input[0][0]", "str"),
        ({}, "missing_required_parameter", "input", "input"),
        ({"input": [1, 2]}, "invalid_type", "input", "check_embedding_ctx_length=False"),
        ({"input": [[1], [2]]}, "invalid_type", "input", "check_embedding_ctx_length=False"),
        ({"input": "a", "encoding_format": "int8"}, "invalid_value", "encoding_format", "int8"),
        ({"input": "a", "dimensions": 0}, "integer_below_min_value", "dimensions", "1"),
        ({"input": "a", "dimensions": 17}, "invalid_value", "dimensions", "64"),
        ({"input": "a", "dimensions": 128}, "invalid_value", "dimensions", "16"),
        ({"input": "a", "input_type": "image"}, "invalid_value", "input_type", "image"),
        ({"input": "a", "truncate": True}, "unknown_parameter", "truncate", "truncate"),
        ({"input": "a", "model": CHAT}, "model_not_supported", "model", "kind"),
        ({"input": "a", "model": "absent"}, "model_not_found", "model", "absent"),
        (
            {"input": "word " * CONTEXT_TOKENS},
            "context_length_exceeded",
            "input",
            f"{CONTEXT_TOKENS} tokens",
        ),
        (
            {"input": ["a", "word " * CONTEXT_TOKENS]},
            "context_length_exceeded",
            "input[1]",
            f"{CONTEXT_TOKENS} tokens",
        ),
    ],
)
def test_bad_input_is_refused_in_words_that_name_the_field(
    http: httpx.Client, body: dict[str, Any], code: str, param: str, words: str
) -> None:
    status, found_code, found_param, message = refusal(http, **body)
    assert (found_code, found_param) == (code, param), message
    assert status == (404 if code == "model_not_found" else 400)
    assert words in message


def test_an_embedding_model_generates_nothing(http: httpx.Client) -> None:
    user = [{"role": "user", "content": "x"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": user},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
        "/v1/messages": {"messages": user, "max_tokens": 5},
        "/v1/rerank": {"query": "x", "documents": ["x"]},
    }
    for path, body in bodies.items():
        response = http.post(path, json={"model": EMBEDDER, **body})
        assert response.status_code == 400, path
        assert "/v1/embeddings" in response.json()["error"]["message"]


def test_the_first_embedding_model_is_that_of_requests_without_one(http: httpx.Client) -> None:
    for path in (PATH, "/embeddings"):
        assert http.post(path, json={"input": "x"}).json()["model"] == EMBEDDER


def test_the_lists_of_models_and_capabilities_say_what_it_is_for(http: httpx.Client) -> None:
    embed(http, "x")
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert models[EMBEDDER]["capabilities"] == ["embeddings"]
    assert models[EMBEDDER]["max_model_len"] == CONTEXT_TOKENS
    assert "chat" in models[CHAT]["capabilities"]
    capabilities = {each["id"]: each for each in http.get("/v1/capabilities").json()["data"]}
    assert {PATH, "/tokenize"} <= capabilities[EMBEDDER]["endpoints"].keys()
    assert "/v1/chat/completions" not in capabilities[EMBEDDER]["endpoints"]
    assert capabilities[EMBEDDER]["endpoints"][PATH]["dimensions"] == {"support": "honoured"}
    assert PATH not in capabilities[CHAT]["endpoints"]


def test_what_is_assumed_of_a_folder_is_logged_once_and_in_the_capabilities(
    service: Daemon, http: httpx.Client
) -> None:
    for _ in range(2):
        answer = http.post(PATH, json={"model": ASSUMED, "input": ["a", "b"]})
        assert answer.status_code == 200, answer.text
    capabilities = {each["id"]: each for each in http.get("/v1/capabilities").json()["data"]}
    [problem] = capabilities[ASSUMED]["problems"]
    assert "lasttoken is assumed" in problem
    assert capabilities[EMBEDDER]["problems"] == []
    service.wait_line(problem)
    assert service.output.count(problem) == 1


def test_a_huge_text_is_refused_by_its_bytes(http: httpx.Client) -> None:
    status, code, param, message = refusal(http, input=["a", "word " * 400_000])
    assert (status, code, param) == (400, "context_length_exceeded", "input[1]")
    assert "at least" in message


def test_its_tokens_can_be_counted_before(http: httpx.Client) -> None:
    counted = http.post("/tokenize", json={"model": EMBEDDER, "prompt": "water and wine"}).json()
    assert counted["count"] == embed(http, "water and wine")["usage"]["prompt_tokens"]


def test_the_openai_package_reads_both_forms(service: Daemon) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        # The package asks for base64 by default, and decodes it.
        default = client.embeddings.create(model=EMBEDDER, input=["water", "wine"])
        floats = client.embeddings.create(
            model=EMBEDDER, input=["water", "wine"], encoding_format="float"
        )
        assert default.usage.total_tokens == floats.usage.total_tokens
        for one, other in zip(default.data, floats.data, strict=True):
            assert one.embedding == other.embedding
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.embeddings.create(model=EMBEDDER, input="")


def test_a_large_answer_is_whole(http: httpx.Client) -> None:
    texts = [f"number {index}" for index in range(2048)]
    vectors = vectors_of(embed(http, texts))
    assert len(vectors) == len(texts)
    [alone] = vectors_of(embed(http, texts[-1]))
    assert difference(vectors[-1], alone) < TOLERANCE


def test_small_requests_are_answered_beside_a_huge_list(service: Daemon) -> None:
    texts = [f"{index} " + "word " * (MANY_WORDS // 2) for index in range(MANY_TEXTS)]
    with plain_http.client(service.url) as client, ThreadPoolExecutor() as executor:
        huge = executor.submit(embed, client, texts)
        service.wait_until("requests.running", be=1)
        for _ in range(3):
            embed(client, "small")
        assert not huge.done()
        assert len(huge.result()["data"]) == MANY_TEXTS


@pytest.mark.long
def test_a_killed_worker_is_only_a_pause(flags: list[str]) -> None:
    texts = [f"{index} " + "word " * MANY_WORDS for index in range(MANY_TEXTS)]
    with (
        running(flags=flags) as daemon,
        plain_http.client(daemon.url) as client,
        ThreadPoolExecutor() as executor,
    ):
        undisturbed = vectors_of(embed(client, texts))
        disturbed = executor.submit(embed, client, texts)
        daemon.wait_until("requests.running", be=1)
        os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
        after = vectors_of(disturbed.result())
        assert daemon.health()["worker"]["restarts"] == 1
    assert max(map(difference, undisturbed, after)) < TOLERANCE


def test_a_client_that_leaves_ends_its_request(service: Daemon) -> None:
    texts = [f"{index} " + "word " * MANY_WORDS for index in range(MANY_TEXTS)]
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=service.url, timeout=0.5, verify=False) as client,
    ):
        client.post(PATH, json={"model": EMBEDDER, "input": texts})
    service.wait_until("requests.running", be=0)


def test_a_request_that_kills_every_worker_is_blamed(tmp_path: Path) -> None:
    fakes = [table(id, tmp_path / id, kind=f'"{kind}"') for id, kind in FAKES.items()]
    with (
        faulty(*configure(tmp_path, *fakes), source=None) as daemon,
        plain_http.client(daemon.url) as client,
    ):
        assert client.post(PATH, json={"input": ["a", "b"]}).status_code == 200
        for path, body in KILLING.items():
            response = client.post(path, json=body)
            assert response.status_code == 500
            assert response.headers["x-should-retry"] == "false"
            assert response.json()["error"]["code"] == "worker_crashed"
        assert client.post(PATH, json={"input": "a"}).status_code == 200


def test_tokens_are_the_keys(flags: list[str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = add_key(keys, "k", "--tokens-per-minute", "50")
    with (
        running(flags=[*flags, "--keys-file", str(keys)]) as daemon,
        plain_http.client(daemon.url) as client,
    ):
        body = {"model": EMBEDDER, "input": "word " * 100}
        assert client.post(PATH, json=body).status_code == 401
        assert client.post(PATH, json=body, headers=bearer(key)).status_code == 200
        spent = client.post(PATH, json=body, headers=bearer(key))
        assert spent.status_code == 429
        assert spent.json()["error"]["code"] == "rate_limit_exceeded"
