"""The facts in a model's folder are all read, and a missing folder is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from worker.models.model_files import (
    context_length_of,
    eos_token_ids_of,
    find_model_folder,
    stop_tokens_of,
)


def test_the_stop_tokens_are_those_of_both_configs_and_the_tokenizer(
    llama_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 901}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [902, 903]}))
    tokenizer = load_tokenizer(llama_path)
    assert stop_tokens_of(tmp_path, tokenizer) == {901, 902, 903} | tokenizer.eos_token_ids


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ({}, set()),
        ({"eos_token_id": None}, set()),
        ({"eos_token_id": 0}, {0}),
        ({"eos_token_id": [3, None, "4", True, 5]}, {3, 5}),
        ({"eos_token_id": 1, "text_config": {"eos_token_id": [2]}}, {1, 2}),
        ({"text_config": None}, set()),
    ],
)
def test_a_missing_eos_token_id_adds_no_stop_token(content: dict[str, Any], ids: set[int]) -> None:
    assert eos_token_ids_of(content) == ids


@pytest.mark.parametrize(
    ("config", "limit", "length"),
    [
        ({"max_position_embeddings": 4096}, 0, 4096),
        ({"max_position_embeddings": 4096}, 1000, 1000),
        ({"max_position_embeddings": 512}, 1000, 512),
        ({"text_config": {"max_position_embeddings": 300}}, 0, 300),
    ],
)
def test_the_context_length_is_the_models_own_or_the_limit(
    config: dict[str, Any], limit: int, length: int
) -> None:
    assert context_length_of(config, limit) == length


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "~/missing-model"])
def test_a_missing_path_is_never_looked_up_on_the_hub(source: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_model_folder(source, download=True)


def test_a_folder_on_disk_is_used_as_it_is(tmp_path: Path) -> None:
    assert find_model_folder(str(tmp_path), download=True) == tmp_path
