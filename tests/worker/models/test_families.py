"""A model's family is found by its config, and adds only what its files leave out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit, ToolUse
from worker.models.families import (
    DefaultFamily,
    FamilyRegistry,
    ModelFamily,
    build_registry,
    detect_model_family,
)
from worker.models.llama import LlamaFamily
from worker.models.model_config import ModelConfigLoader
from worker.tool_calls.json_formats import BARE_JSON
from worker.tool_calls.syntax import CallSyntax


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"text_config": {"model_type": "qwen3"}}, "qwen3"),
        ({}, "unknown"),
    ],
)
def test_the_family_is_the_model_type_of_the_config(config: dict[str, object], family: str) -> None:
    assert detect_model_family(config) == family


def test_llama_has_a_family_of_its_own_and_others_have_the_default() -> None:
    registry = build_registry()
    assert isinstance(registry.family_for("llama"), LlamaFamily)
    assert isinstance(registry.family_for("qwen3"), DefaultFamily)


def test_a_registered_family_is_found() -> None:
    registry = FamilyRegistry(default=DefaultFamily())
    family = LlamaFamily()
    registry.register_family("new", family)
    assert registry.family_for("new") is family


def test_a_family_is_registered_once() -> None:
    with pytest.raises(ValueError, match="is already registered"):
        build_registry().register_family("llama", DefaultFamily())


def test_an_object_without_a_familys_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="not a ModelFamily"):
        build_registry().register_family("new", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [LlamaFamily(), DefaultFamily()])
def test_every_family_has_the_methods_of_the_protocol(family: object) -> None:
    assert isinstance(family, ModelFamily)


def test_llama_3_stops_at_the_end_of_turn_text_and_message(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    stop_tokens = ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]
    expected = set(tokenizer.convert_tokens_to_ids(stop_tokens))
    assert LlamaFamily().stop_tokens(tokenizer) == expected


def test_a_llama_without_llama_3s_tokens_gets_nothing(qwen_path: Path) -> None:
    tokenizer = load_tokenizer(qwen_path)
    assert LlamaFamily().stop_tokens(tokenizer) == set()
    assert LlamaFamily().chat_template(tokenizer) is None


def test_a_llama_3_without_a_template_gets_metas_template(llama_path: Path) -> None:
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


class NewFamily:
    """A family with one fact of each kind."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        return {7}

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        return "{{ messages[0]['content'] }}"

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        return (BARE_JSON,)


def test_a_registered_family_needs_no_other_change(gemma_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(gemma_path, tmp_path / "new")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    del settings["chat_template"]
    file.write_text(json.dumps(settings), "utf-8")
    registry = build_registry()
    registry.register_family(
        json.loads((path / "config.json").read_text())["model_type"], NewFamily()
    )
    config = ModelConfigLoader(registry, 0).load(ModelSource("new", str(path)), download=False)
    assert 7 in config.stop_tokens
    tokens = config.prompts.build(ChatPrompt([{"role": "user", "content": "hello"}]))
    assert tokens == load_tokenizer(path).encode("hello", add_special_tokens=False)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    submit = Submit(
        id=1,
        model="new",
        prompt=ChatPrompt([{"role": "user", "content": "hello"}], tools=[tool]),
        sampling=Sampling(seed=0),
        calls=ToolUse(["f"], required=True),
    )
    grammar = config.parsers.answer_grammar(submit, tokens)
    assert grammar is not None
    assert "parameters" in grammar.answer
    assert "<tool_call>" not in grammar.answer


def test_the_default_family_adds_nothing(gemma_path: Path) -> None:
    tokenizer = load_tokenizer(gemma_path)
    assert DefaultFamily().stop_tokens(tokenizer) == set()
    assert DefaultFamily().chat_template(tokenizer) is None
