"""A model's table: its revision, whether its own code runs, and what kind of model it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.embedding import EmbeddingSource
from service.config.model_settings import pull_command, read_models, to_sources, trusted_ids
from service.config.scalars import SettingsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRUSTED = {"trust_remote_code": True}


def read(**fields: Any) -> Any:
    [model] = read_models([{"source": "org/model", **fields}], "mlxd.toml")
    return model


def test_no_model_is_trusted_by_default() -> None:
    assert trusted_ids([read()]) == []
    [source], _ = to_sources([read()], 0)
    assert (source.trust_remote_code, source.generation_config, source.revision) == (
        False,
        True,
        None,
    )


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT[:12], COMMIT.upper()])
def test_a_trusted_model_of_the_hub_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(SettingsError, match="org/model: trust_remote_code needs a commit"):
        read(revision=revision, **TRUSTED)


def test_a_trusted_model_of_the_hub_has_one_commit() -> None:
    model = read(revision=COMMIT, **TRUSTED)
    assert trusted_ids([model]) == ["org/model"]
    assert pull_command(model) == f"mlxd pull org/model --revision {COMMIT}"
    [source], _ = to_sources([model], 0)
    assert (source.revision, source.trust_remote_code) == (COMMIT, True)


def test_a_trusted_folder_needs_no_revision() -> None:
    assert trusted_ids([read(source="/models/own", **TRUSTED)]) == ["own"]


def test_a_folder_has_no_revision() -> None:
    with pytest.raises(SettingsError, match="own has a revision, but is not on the hub"):
        read(source="/models/own", revision="main")


def test_any_revision_of_a_model_that_is_not_trusted_is_taken() -> None:
    assert read(revision="main").revision == "main"


def test_the_switch_for_generation_config_is_sent_to_the_worker() -> None:
    [source], _ = to_sources([read(generation_config=False)], 0)
    assert source.generation_config is False


def test_an_embedding_model_says_how_its_vectors_are_made() -> None:
    model = read(
        kind="embedding",
        pooling="cls",
        normalise=False,
        dimensions=[64, 32],
        prompts={"query": "find: "},
    )
    [source], _ = to_sources([model], 0)
    assert source.embedding == EmbeddingSource(
        kind="embedding",
        pooling="cls",
        normalise=False,
        matryoshka=[32, 64],
        prompts={"query": "find: ", "document": ""},
    )


def test_what_is_not_set_is_left_to_the_folder() -> None:
    [generating, embedding, rerank], _ = to_sources(
        [read(), read(kind="embedding"), read(kind="rerank")], 0
    )
    assert generating.embedding is None
    assert embedding.embedding == EmbeddingSource(kind="embedding")
    assert rerank.embedding == EmbeddingSource(kind="rerank")


def test_a_model_without_its_own_quantisation_has_that_of_the_service() -> None:
    models = [read(), read(kv_quantisation="off"), read(kv_quantisation="4bit")]
    sources, _ = to_sources([*models, read(kind="rerank")], 0, kv_quantisation="8bit")
    assert [source.kv_bits for source in sources] == [8, 0, 4, 0]


def test_a_model_without_its_own_draft_model_has_that_of_the_service(tmp_path: Path) -> None:
    models = [read(), read(draft_model="off"), read(draft_model="org/small")]
    sources, _ = to_sources([*models, read(kind="rerank")], 0, draft_model=str(tmp_path / "x/.."))
    assert [source.draft_model for source in sources] == [str(tmp_path), None, "org/small", None]
    [source], _ = to_sources([read()], 0)
    assert source.draft_model is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "chat"}, "Invalid enum value"),
        ({"kind": "embedding", "pooling": "first"}, "Invalid enum value"),
        ({"kind": "embedding", "dimensions": [0]}, ">= 1"),
        ({"kind": "embedding", "prompts": {"passage": "x"}}, "passage"),
        ({"kv_quantisation": "2bit"}, "Invalid enum value"),
        ({"kind": "embedding", "kv_quantisation": "8bit"}, "kv_quantisation has no effect"),
        ({"kind": "embedding", "draft_model": "x"}, "draft_model has no effect"),
        ({"kind": "embedding", "sampling": {"top_k": 5}}, "sampling has no effect"),
        ({"kind": "rerank", "generation_config": False}, "generation_config has no effect"),
        ({"kind": "embedding", "adapter": "/a"}, "adapter has no effect"),
        ({"kind": "rerank", "chat_template": "/a"}, "chat_template has no effect"),
        ({"kind": "rerank", "pooling": "cls"}, "pooling has no effect"),
        ({"pooling": "cls"}, "pooling has no effect"),
        ({"dimensions": [64]}, "dimensions has no effect"),
    ],
)
def test_settings_of_another_kind_of_model_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read(**fields)
