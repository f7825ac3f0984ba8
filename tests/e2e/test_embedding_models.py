"""Each kind of embedding model and reranker over HTTP, all in one service that loads on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import mlx.core as mx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.embedders import configure, table
from tests.models.embedding.folders import write_folder
from tests.models.embedding.samples import MAX_TOKENS, PAIRS, SAMPLES, TEXTS
from tests.sources import ROOT
from tests.worker.embedding.opening import change_weights

VALUES = json.loads((ROOT / "tests/worker/embedding/vectors.json").read_text("utf-8"))
EMBEDDERS = [name for name, sample in SAMPLES.items() if sample.kind == "embedding"]
RERANKERS = [name for name, sample in SAMPLES.items() if sample.kind == "rerank"]
TOLERANCE = 1e-4
RERANKER = "bert-reranker"
# A model of each kind whose weights are no numbers.
BROKEN = {"bert-mean": "broken-embedder", "bert-reranker": "broken-reranker"}
QUERY, DOCUMENTS = "where is water", ["some words are long", "the people find water over there"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("embedding-models")
    tables = [
        table(
            name,
            write_folder(sample, VALUES[name]["shapes"], folder / name),
            kind=f'"{sample.kind}"',
        )
        for name, sample in SAMPLES.items()
    ]
    for name, broken in BROKEN.items():
        path = write_folder(SAMPLES[name], VALUES[name]["shapes"], folder / broken)
        change_weights(path, lambda weights: {key: w * mx.nan for key, w in weights.items()})
        tables.append(table(broken, path, kind=f'"{SAMPLES[name].kind}"', preload="false"))
    with running(flags=configure(folder, *tables)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def rerank(http: httpx.Client, documents: list[Any], **fields: Any) -> dict[str, Any]:
    body = {"model": RERANKER, "query": QUERY, "documents": documents, **fields}
    response = http.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_are_those_of_sentence_transformers(http: httpx.Client, name: str) -> None:
    body: dict[str, Any] = {"model": name, "input": list(TEXTS)}
    if SAMPLES[name].prompt_name is not None:
        body["input_type"] = SAMPLES[name].prompt_name
    response = http.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    for each, expected in zip(answer["data"], VALUES[name]["values"], strict=True):
        assert each["embedding"] == pytest.approx(expected, abs=TOLERANCE)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, VALUES[name]["rows"]))


@pytest.mark.parametrize("name", RERANKERS)
def test_scores_are_those_of_sentence_transformers(http: httpx.Client, name: str) -> None:
    for (query, document), expected in zip(PAIRS, VALUES[name]["values"], strict=True):
        [result] = rerank(http, [document], model=name, query=query)["results"]
        assert result["relevance_score"] == pytest.approx(expected, abs=TOLERANCE)


def test_documents_come_in_the_order_of_their_scores(http: httpx.Client) -> None:
    answer = rerank(http, [*DOCUMENTS, "water", "they"])
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert all(0 < score < 1 for score in scores)
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2, 3]
    assert answer["model"] == RERANKER
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    assert answer["meta"] == {"billed_units": {"search_units": 1}}
    for result in answer["results"]:
        [alone] = rerank(http, [[*DOCUMENTS, "water", "they"][result["index"]]])["results"]
        assert alone["relevance_score"] == pytest.approx(result["relevance_score"], abs=1e-5)


def test_the_first_results_and_their_documents_are_returned_on_request(http: httpx.Client) -> None:
    whole = rerank(http, DOCUMENTS)
    assert all("document" not in result for result in whole["results"])
    objects = [{"text": text} for text in DOCUMENTS]
    [first] = rerank(http, objects, top_n=1, return_documents=True)["results"]
    assert first["index"] == whole["results"][0]["index"]
    assert first["document"] == {"text": DOCUMENTS[first["index"]]}
    assert len(rerank(http, DOCUMENTS, top_n=9)["results"]) == 2


def test_every_path_of_reranking_is_the_same(http: httpx.Client) -> None:
    for path in ("/rerank", "/v2/rerank"):
        answer = http.post(path, json={"query": QUERY, "documents": DOCUMENTS}).json()
        assert answer["results"] == rerank(http, DOCUMENTS)["results"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"query": ""}, "string_below_min_length", "query"),
        ({"query": " "}, "invalid_value", "query"),
        ({"query": None}, "invalid_type", "query"),
        ({"documents": []}, "array_below_min_length", "documents"),
        ({"documents": ["a"] * 1001}, "array_above_max_length", "documents"),
        ({"documents": "a"}, "invalid_type", "documents"),
        ({"documents": [5]}, "invalid_type", "documents[0]"),
        ({"documents": [{}]}, "missing_required_parameter", "documents[0].text"),
        ({"documents": [{"title": "a"}]}, "unknown_parameter", "documents[0].title"),
        ({"top_n": 0}, "integer_below_min_value", "top_n"),
        ({"max_tokens_per_doc": 5}, "unsupported_parameter", "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 5}, "unsupported_parameter", "max_chunks_per_doc"),
        ({"rank_fields": ["title"]}, "unsupported_parameter", "rank_fields"),
        ({"model": "bert-mean"}, "model_not_supported", "model"),
        ({"documents": ["a", "word " * 999]}, "context_length_exceeded", "documents[1]"),
        ({"query": "word " * 999}, "context_length_exceeded", "query"),
        ({"query": "word " * 99_999}, "context_length_exceeded", "query"),
        ({"documents": ["a", "word " * 99_999]}, "context_length_exceeded", "documents[1]"),
    ],
)
def test_bad_input_is_refused_in_words_that_name_the_field(
    http: httpx.Client, fields: dict[str, Any], code: str, param: str
) -> None:
    body = {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS, **fields}
    response = http.post("/v1/rerank", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param), error


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_that_are_no_numbers_are_an_error(http: httpx.Client, encoding: str) -> None:
    body = {"model": BROKEN["bert-mean"], "input": ["a", "b"], "encoding_format": encoding}
    response = http.post("/v1/embeddings", json=body)
    assert response.status_code == 500
    assert "NaN" in response.json()["error"]["message"]


def test_scores_that_are_no_numbers_are_an_error(http: httpx.Client) -> None:
    body = {"model": BROKEN[RERANKER], "query": QUERY, "documents": DOCUMENTS}
    response = http.post("/v1/rerank", json=body)
    assert response.status_code == 500
    assert "NaN" in response.json()["error"]["message"]


def test_a_reranker_has_no_vectors(http: httpx.Client) -> None:
    response = http.post("/v1/embeddings", json={"model": RERANKER, "input": "x"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "model_not_supported"
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert models[RERANKER]["capabilities"] == ["rerank"]
    assert models[RERANKER]["max_model_len"] == MAX_TOKENS


def test_a_model_without_prompts_refuses_an_input_type(http: httpx.Client) -> None:
    body = {"model": "bert-mean", "input": "x", "input_type": "query"}
    response = http.post("/v1/embeddings", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input_type"
