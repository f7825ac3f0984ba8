"""A tokenizer's configuration has what clients read of it, and no path of the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from mlx_lm.utils import load_tokenizer

from worker.prompts.tokenizer_facts import describe_tokenizer

CONTEXT = 4096


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_the_configuration_is_that_of_the_models_files(
    model_paths: Mapping[str, Path], family: str
) -> None:
    path = model_paths[family]
    configured = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    facts = describe_tokenizer(load_tokenizer(path), CONTEXT)
    for name in ("bos_token", "eos_token", "pad_token", "chat_template", "model_max_length"):
        assert facts[name] == configured[name]
    tokenizer = load_tokenizer(path)
    assert facts["tokenizer_class"] == type(tokenizer._tokenizer).__name__
    assert facts["vocab_size"] == len(tokenizer)
    added = facts["added_tokens_decoder"].values()
    assert configured["eos_token"] in [token["content"] for token in added if token["special"]]


def test_no_path_of_the_machine_is_told(llama_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(llama_path, tmp_path / "model")
    file = path / "tokenizer_config.json"
    hidden = {
        "name_or_path": str(path),
        "special_tokens_map_file": f"{path}/special_tokens_map.json",
        "tokenizer_file": f"{path}/tokenizer.json",
        "auto_map": {"AutoTokenizer": [f"{path}/code.py", None]},
        "add_bos_token": f"{path}/true",
        "cache_dir": "/somewhere",
    }
    configured = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**configured, **hidden}), encoding="utf-8")
    encoded = msgspec.json.encode(describe_tokenizer(load_tokenizer(path), CONTEXT)).decode()
    assert str(tmp_path) not in encoded
    assert "/somewhere" not in encoded


def test_a_tokenizer_without_a_limit_has_the_context_length(
    llama_path: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(llama_path, tmp_path / "model")
    file = path / "tokenizer_config.json"
    configured = json.loads(file.read_text("utf-8"))
    for limit, expected in ((10**30, CONTEXT), (100, 100)):
        file.write_text(json.dumps({**configured, "model_max_length": limit}), encoding="utf-8")
        facts = describe_tokenizer(load_tokenizer(path), CONTEXT)
        assert facts["model_max_length"] == expected


def test_a_model_without_a_template_has_none(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    tokenizer.has_chat_template = False
    assert describe_tokenizer(tokenizer, CONTEXT)["chat_template"] is None
