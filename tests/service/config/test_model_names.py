"""A model's name is its id or an alias, and nothing else finds one."""

from __future__ import annotations

import pytest

from protocol.messages import ModelInfo, ModelState
from service.config.model_names import ModelNames
from service.config.model_settings import ModelSettings
from service.errors import ModelNotFound

CATALOG = ModelNames([ModelSettings("org/first", aliases=("one",)), ModelSettings("/x", "second")])
INFO = ModelInfo("second", "qwen3", 4096, 1000, 10, 1.0)
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
def test_a_model_is_found_by_its_id_and_the_first_as_default(name: str, id: str) -> None:
    assert CATALOG.resolve(name) == id


@pytest.mark.parametrize("name", ["", "first", "ORG/FIRST", "org/first/", "../second", "third"])
def test_any_other_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        CATALOG.resolve(name)


def test_all_configured_models_are_listed_whether_loaded_or_not() -> None:
    first, second = CATALOG.list_models(STATES).data
    assert (first.id, first.loaded, first.family, first.aliases) == (
        "org/first",
        False,
        None,
        ["one", "default"],
    )
    assert (second.id, second.loaded, second.context_length) == ("second", True, 4096)


def test_without_a_worker_nothing_is_loaded() -> None:
    assert not any(model.loaded for model in CATALOG.list_models([]).data)
    assert CATALOG.describe("default", []).id == "org/first"
