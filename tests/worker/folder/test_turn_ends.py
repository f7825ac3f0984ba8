"""An answer ends where the template ends turns, also if no file names that token."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken

from protocol.messages import ModelSource
from tests.models.templates import GEMMA, LLAMA, QWEN
from tests.worker.driver import make_config_loader
from worker.folder.turn_ends import find_turn_end

# Each writes what the named families' templates write.
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)
COMMAND = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|begin|>{{ m.content }}<|inner|><|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
WITHOUT_END = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
REFUSING = "{{ raise_exception('no') }}"
THINKING = QWEN.replace("<|im_end|>", "</think>")


def make_tokenizer(path: Path, template: str | None, *special: str) -> TokenizerWrapper:
    tokenizer = load_tokenizer(path)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in special])
    tokenizer = TokenizerWrapper(tokenizer._tokenizer)
    tokenizer.chat_template = template
    tokenizer.has_chat_template = template is not None
    return tokenizer


def found(tokenizer: TokenizerWrapper, *named: str) -> str | None:
    end = find_turn_end(tokenizer, set(tokenizer.convert_tokens_to_ids(list(named))))
    return None if end is None else str(tokenizer.convert_ids_to_tokens(end))


@pytest.mark.parametrize(
    ("template", "special", "named", "end"),
    [
        (QWEN, [], "<|endoftext|>", "<|im_end|>"),
        (QWEN, [], "<|im_end|>", None),
        (PHI, ["<|user|>", "<|assistant|>", "<|end|>"], "<|endoftext|>", "<|end|>"),
        (PHI, ["<|user|>", "<|assistant|>", "<|end|>"], "<|end|>", None),
        (COMMAND, ["<|begin|>", "<|inner|>"], "<|im_end|>", None),
        (COMMAND, ["<|begin|>", "<|inner|>"], "<|endoftext|>", "<|inner|>"),
        (HARMONY, ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"], "<|endoftext|>", None),
        (WITHOUT_END, ["<|user|>", "<|assistant|>"], "<|endoftext|>", None),
        (THINKING, ["<think>", "</think>"], "<|endoftext|>", None),
        (PLAIN, [], "<|endoftext|>", None),
        (REFUSING, [], "<|endoftext|>", None),
        (None, [], "<|endoftext|>", None),
    ],
)
def test_the_token_after_an_answer_is_found_unless_its_end_is_named(
    qwen_path: Path, template: str | None, special: list[str], named: str, end: str | None
) -> None:
    assert found(make_tokenizer(qwen_path, template, *special), named) == end


@pytest.mark.parametrize(
    ("family", "template", "end"),
    [
        ("llama", LLAMA, "<|eot_id|>"),
        ("qwen", QWEN, "<|im_end|>"),
        ("gemma", GEMMA, "<end_of_turn>"),
    ],
)
def test_each_familys_end_is_found(
    model_paths: dict[str, Path], family: str, template: str, end: str
) -> None:
    tokenizer = make_tokenizer(model_paths[family], template)
    assert found(tokenizer, "a") == end
    assert found(tokenizer, end) is None


def test_a_load_adds_it_to_the_stop_tokens_and_warns(
    qwen_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(qwen_path, tmp_path / "m")
    ids: Any = load_tokenizer(folder).get_vocab()
    end, other = ids["<|im_end|>"], ids["<|endoftext|>"]
    for name, field, value in (
        ("config.json", "eos_token_id", other),
        ("generation_config.json", "eos_token_id", [other]),
        ("tokenizer_config.json", "eos_token", "<|endoftext|>"),
    ):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with caplog.at_level(logging.WARNING):
        config = make_config_loader().load(ModelSource("m", str(folder)), download=False)
    assert config.stop_tokens == {end, other}
    assert "no file names <|im_end|>" in caplog.text
