from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.errors import ERROR_RESPONSES
from tests.service.parts import describe

API: dict[str, Any] = json.loads(json.dumps(describe("1.2.3")))
SCHEMAS = API["components"]["schemas"]
OPERATIONS = [
    (path, method, operation)
    for path, methods in API["paths"].items()
    for method, operation in methods.items()
]
GENERATION = ["/v1/chat/completions", "/v1/completions", "/v1/messages"]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from walk(child)


def test_every_endpoint_is_described_with_the_version() -> None:
    assert API["openapi"] == "3.1.0"
    assert API["info"]["version"] == "1.2.3"
    assert [(method, path) for path, method, _ in OPERATIONS] == [
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("post", "/v1/responses"),
        ("post", "/v1/responses/input_tokens"),
        ("get", "/v1/responses/{id}"),
        ("delete", "/v1/responses/{id}"),
        ("post", "/v1/responses/{id}/cancel"),
        ("get", "/v1/responses/{id}/input_items"),
        ("post", "/v1/conversations"),
        ("get", "/v1/conversations/{id}"),
        ("post", "/v1/conversations/{id}"),
        ("delete", "/v1/conversations/{id}"),
        ("post", "/v1/conversations/{id}/items"),
        ("get", "/v1/conversations/{id}/items"),
        ("get", "/v1/conversations/{id}/items/{item}"),
        ("delete", "/v1/conversations/{id}/items/{item}"),
        ("post", "/v1/messages"),
        ("post", "/v1/messages/count_tokens"),
        ("post", "/v1/embeddings"),
        ("post", "/v1/rerank"),
        ("post", "/tokenize"),
        ("post", "/detokenize"),
        ("post", "/apply-template"),
        ("get", "/tokenizer_info"),
        ("get", "/v1/capabilities"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("post", "/admin/models/{model}/load"),
        ("post", "/admin/models/{model}/unload"),
        ("post", "/admin/models/{model}/pin"),
        ("get", "/health"),
        ("get", "/status"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
    ]


def test_every_reference_names_a_schema_of_the_document() -> None:
    references = [node["$ref"] for node in walk(API) if "$ref" in node]
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in SCHEMAS


def test_every_error_status_is_documented() -> None:
    documented = {
        int(status) for _, _, operation in OPERATIONS for status in operation["responses"]
    }
    # 405 belongs to no operation, and no client receives a 499.
    assert documented == {response.status for response in ERROR_RESPONSES.values()} - {405, 499} | {
        200
    }


@pytest.mark.parametrize("path", GENERATION)
def test_generation_documents_its_stream_and_all_its_errors(path: str) -> None:
    responses = API["paths"][path]["post"]["responses"]
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    statuses = "200 400 401 403 404 408 413 415 429 431 500 501 503 505"
    assert list(responses) == statuses.split()
    for status in ("429", "503"):
        assert "Retry-After" in responses[status]["headers"]


def test_every_post_documents_that_its_media_type_is_judged() -> None:
    posts = [item["post"] for item in API["paths"].values() if "post" in item]
    assert posts
    assert all("415" in operation["responses"] for operation in posts)


def test_every_response_has_the_request_id_header() -> None:
    for _, _, operation in OPERATIONS:
        for response in operation["responses"].values():
            assert "x-request-id" in response["headers"]


def test_every_error_has_the_same_shape() -> None:
    for path, _, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            if status != "200" and path != "/health":
                schema = response["content"]["application/json"]["schema"]
                name = "AnthropicError" if path.startswith("/v1/messages") else "ErrorBody"
                assert schema == {"$ref": f"#/components/schemas/{name}"}
    assert SCHEMAS["ErrorDetail"]["required"] == ["message", "type", "param", "code"]


def test_other_methods_types_and_paths_are_described() -> None:
    text = API["info"]["description"]
    assert all(word in text for word in ("405", "404", "415", "501", "HEAD", "Content-Encoding"))
    assert "/chat/completions" in API["paths"]["/v1/chat/completions"]["post"]["description"]


def test_health_has_its_own_shape_when_it_is_not_healthy() -> None:
    response = API["paths"]["/health"]["get"]["responses"]["503"]
    schema = response["content"]["application/json"]["schema"]
    names = ("Health", "HealthSummary")
    assert schema == {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}


def test_request_schemas_are_as_strict_as_the_decoder() -> None:
    chat = SCHEMAS["ChatRequest"]
    assert chat["required"] == ["model", "messages"]
    assert chat["additionalProperties"] is False
    assert {"type": "number", "minimum": 0, "maximum": 2, "description": "0 is greedy."} in chat[
        "properties"
    ]["temperature"]["anyOf"]
    roles = chat["properties"]["messages"]["items"]["discriminator"]["mapping"]
    assert set(roles) == {"system", "developer", "user", "assistant", "tool", "function"}
