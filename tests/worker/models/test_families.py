"""A family's adapter is found by its config, and adds only what the files leave out."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer

from worker.models.families import (
    DefaultFamily,
    FamilyRegistry,
    ModelFamily,
    build_registry,
    detect_model_family,
)
from worker.models.llama import LlamaFamily


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"text_config": {"model_type": "qwen3"}}, "qwen3"),
        ({}, "unknown"),
    ],
)
def test_the_family_is_what_the_config_names(config: dict[str, object], family: str) -> None:
    assert detect_model_family(config) == family


def test_llama_has_its_own_adapter_and_other_families_the_default() -> None:
    registry = build_registry()
    assert isinstance(registry.family_for("llama"), LlamaFamily)
    assert isinstance(registry.family_for("qwen3"), DefaultFamily)


def test_a_registered_family_is_found() -> None:
    registry = FamilyRegistry(default=DefaultFamily())
    adapter = LlamaFamily()
    registry.register_family("new", adapter)
    assert registry.family_for("new") is adapter


def test_a_family_is_registered_once() -> None:
    with pytest.raises(ValueError, match="is already registered"):
        build_registry().register_family("llama", DefaultFamily())


def test_what_lacks_an_adapters_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="no ModelFamily"):
        build_registry().register_family("new", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", [LlamaFamily(), DefaultFamily()])
def test_every_adapter_keeps_the_protocol(adapter: object) -> None:
    assert isinstance(adapter, ModelFamily)


def test_llama_3_ends_by_turn_text_and_message(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    ends = ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]
    assert LlamaFamily().stop_tokens(tokenizer) == set(tokenizer.convert_tokens_to_ids(ends))


def test_a_llama_without_llama_3s_tokens_gets_nothing(qwen_path: Path) -> None:
    tokenizer = load_tokenizer(qwen_path)
    assert LlamaFamily().stop_tokens(tokenizer) == set()
    assert LlamaFamily().chat_template(tokenizer) is None


def test_a_llama_3_without_a_template_gets_metas(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    tokenizer.chat_template = LlamaFamily().chat_template(tokenizer)
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": " s "}, {"role": "user", "content": "u"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_default_adapter_adds_nothing(gemma_path: Path) -> None:
    tokenizer = load_tokenizer(gemma_path)
    assert DefaultFamily().stop_tokens(tokenizer) == set()
    assert DefaultFamily().chat_template(tokenizer) is None
