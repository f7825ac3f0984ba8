"""What a model's folder says is read in full, and a folder that is not there is said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from worker.models.model_files import context_length_of, eos_ids, resolve, stop_tokens_of


def test_the_stop_set_joins_both_configs_and_the_tokenizer(
    llama_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 901}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [902, 903]}))
    tokenizer = load_tokenizer(llama_path)
    assert stop_tokens_of(tmp_path, tokenizer) == {901, 902, 903} | tokenizer.eos_token_ids


@pytest.mark.parametrize(
    ("content", "ids"),
    [({}, set()), ({"eos_token_id": None}, set()), ({"eos_token_id": 0}, {0})],
)
def test_an_end_that_is_not_named_adds_nothing(
    tmp_path: Path, content: dict[str, Any], ids: set[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert eos_ids(tmp_path / "config.json") == ids
    assert eos_ids(tmp_path / "nothing.json") == set()


@pytest.mark.parametrize(
    ("config", "limit", "length"),
    [
        ({"max_position_embeddings": 4096}, 0, 4096),
        ({"max_position_embeddings": 4096}, 1000, 1000),
        ({"max_position_embeddings": 512}, 1000, 512),
        ({"text_config": {"max_position_embeddings": 300}}, 0, 300),
    ],
)
def test_the_context_is_the_models_own_or_the_limit(
    config: dict[str, Any], limit: int, length: int
) -> None:
    assert context_length_of(config, limit) == length


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "~/missing-model"])
def test_a_path_that_is_not_there_is_never_looked_up_on_the_hub(source: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        resolve(source, download=True)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), download=True) == tmp_path
