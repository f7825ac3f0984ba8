"""Greedy answers of mlx-lm itself on the same weights, without batching: the expected output.

Prompts are token ids, so both sides have the same special tokens. Call it only from the
main thread: MLX must be used from one thread of a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm import load, stream_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper


@dataclass(frozen=True)
class Answer:
    """`tokens` has no stop token; `text` is that of mlx-lm's detokenizer."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str


def greedy(path: Path, prompt: Sequence[int], max_tokens: int) -> Answer:
    """mlx-lm's answer of at most `max_tokens` tokens. Each answer is computed once."""
    return _answer(path, tuple(prompt), max_tokens)


def greedy_tokens(path: Path, prompt: Sequence[int], max_tokens: int) -> list[int]:
    return list(greedy(path, prompt, max_tokens).tokens)


def greedy_text(path: Path, prompt: Sequence[int], max_tokens: int) -> str:
    """The text of a chat answer: a space before the first word may be missing."""
    return greedy(path, prompt, max_tokens).text


def chat_tokens(path: Path, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The prompt of `messages` by the model's template, with the header of the answer."""
    tokens: list[int] = tokenizer(path).apply_chat_template(
        list(messages), add_generation_prompt=True
    )
    return tokens


def text_tokens(path: Path, text: str) -> list[int]:
    """The token ids of `text`, with the tokens that the tokenizer adds before it."""
    tokens: list[int] = tokenizer(path).encode(text)
    return tokens


def decode(path: Path, tokens: Sequence[int]) -> str:
    """The text of `tokens`, including special tokens and a first space."""
    return str(tokenizer(path).decode(list(tokens)))


def tokenizer(path: Path) -> TokenizerWrapper:
    return _loaded(path)[1]


@cache
def _loaded(path: Path) -> tuple[nn.Module, TokenizerWrapper]:
    model, tokenizer = load(str(path))
    return model, tokenizer


@cache
def _answer(path: Path, prompt: tuple[int, ...], max_tokens: int) -> Answer:
    model, tokenizer = _loaded(path)
    steps = list(stream_generate(model, tokenizer, list(prompt), max_tokens=max_tokens))
    reason = steps[-1].finish_reason
    assert reason is not None
    tokens = [step.token for step in (steps[:-1] if reason == "stop" else steps)]
    return Answer(tuple(tokens), "".join(step.text for step in steps), reason)
