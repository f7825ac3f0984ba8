"""A model is found by its id or an alias, and by no other name."""

from __future__ import annotations

import pytest

from protocol.model_states import ModelInfo, ModelState
from service.config.model_names import ModelNames
from service.config.model_settings import ModelKind, ModelSettings
from service.errors import InvalidRequest, ModelNotFound

NAMES = ModelNames([ModelSettings("org/first", aliases=("one",)), ModelSettings("/x", "second")])
INFO = ModelInfo(
    id="second",
    family="qwen3",
    context_length=4096,
    vocabulary_size=1000,
    weight_bytes=10,
    load_ms=1.0,
)
STATES = [ModelState("org/first", "unloaded"), ModelState("second", "loaded", bytes=10, info=INFO)]


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("org/first", "org/first"),
        ("second", "second"),
        ("default", "org/first"),
        ("one", "org/first"),
    ],
)
def test_a_model_is_found_by_its_id_or_alias_and_the_first_as_default(name: str, id: str) -> None:
    assert NAMES.resolve(name) == id


PATTERNS = ModelNames(
    [
        ModelSettings("/a", "first", aliases=("gpt-*", "gpt-4o-mini")),
        ModelSettings("/b", "gpt-5", aliases=("claude-*", "*-of-no-pattern")),
        ModelSettings("/c", "third", aliases=("gpt-4*", "claude-haiku-*")),
    ]
)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("gpt-3.5-turbo", "first"),
        ("gpt-", "first"),
        ("gpt-4o", "third"),
        ("gpt-4o-mini", "first"),
        ("gpt-5", "gpt-5"),
        ("gpt-5-mini", "first"),
        ("claude-sonnet-5", "gpt-5"),
        ("claude-haiku-4-5-20251001", "third"),
        ("claude-*", "gpt-5"),
    ],
)
def test_an_exact_name_comes_first_and_then_the_longest_beginning(name: str, id: str) -> None:
    assert PATTERNS.resolve(name) == id
    assert PATTERNS.describe(name, []).id == id


@pytest.mark.parametrize("name", ["gpt", "GPT-4", "xgpt-4", "claude", "model-of-no-pattern"])
def test_a_name_that_no_alias_begins_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        PATTERNS.resolve(name)


def test_an_alias_of_a_star_alone_takes_every_other_name() -> None:
    names = ModelNames([ModelSettings("/a", "first"), ModelSettings("/b", "rest", aliases=("*",))])
    assert [names.resolve(name) for name in ("first", "default", "any/name")] == [
        "first",
        "first",
        "rest",
    ]


@pytest.mark.parametrize("name", ["", "first", "ORG/FIRST", "org/first/", "../second", "third"])
def test_any_other_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        NAMES.resolve(name)


def test_all_configured_models_are_listed_loaded_or_not() -> None:
    first, second = NAMES.list_models(STATES).data
    assert (first.id, first.loaded, first.family, first.aliases) == (
        "org/first",
        False,
        None,
        ["one", "default"],
    )
    assert (second.id, second.loaded, second.context_length) == ("second", True, 4096)


def test_without_a_worker_nothing_is_loaded() -> None:
    assert not any(model.loaded for model in NAMES.list_models([]).data)
    assert NAMES.describe("default", []).id == "org/first"


KINDS = ModelNames(
    [
        ModelSettings("/a", "vectors", kind="embedding"),
        ModelSettings("/b", "chat"),
        ModelSettings("/c", "scores", kind="rerank"),
    ]
)


@pytest.mark.parametrize(
    ("kind", "id"), [("embedding", "vectors"), ("generation", "chat"), ("rerank", "scores")]
)
def test_a_request_without_a_model_gets_the_first_one_of_its_kind(kind: ModelKind, id: str) -> None:
    assert KINDS.resolve(None, kind) == KINDS.resolve("default", kind) == id
    assert KINDS.resolve(None) == "vectors"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("chat", "embedding", "it generates text. Configure an embedding model"),
        ("scores", "embedding", "it is for /v1/rerank"),
        ("vectors", "generation", "it is for /v1/embeddings"),
        ("vectors", "rerank", "Configure a reranker"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_words(
    name: str, kind: ModelKind, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        KINDS.resolve(name, kind)
    assert (caught.value.code, caught.value.param) == ("model_not_supported", "model")
    assert words in caught.value.message
