"""A model is found by its id or an alias, and by no other name."""

from __future__ import annotations

import pytest

from protocol.messages import ModelInfo, ModelState
from service.config.model_names import ModelNames
from service.config.model_settings import ModelSettings
from service.errors import ModelNotFound

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
