"""What mlx-lm itself answers, alone and greedy, on the same weights: what the service must equal.

Prompts are token ids, so that no two sides can differ about special tokens.
Call it from the main thread: MLX belongs to one thread of a process.
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
    """`tokens` without the one that ended it; `text` as mlx-lm's detokenizer gives it."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str


def greedy(path: Path, prompt: Sequence[int], max_tokens: int) -> Answer:
    """mlx-lm's answer of at most `max_tokens` tokens. Each is computed once."""
    return _answer(path, tuple(prompt), max_tokens)


def greedy_tokens(path: Path, prompt: Sequence[int], max_tokens: int) -> list[int]:
    return list(greedy(path, prompt, max_tokens).tokens)


def greedy_text(path: Path, prompt: Sequence[int], max_tokens: int) -> str:
    """The text as a chat answer has it: a space that begins the first word may be left out."""
    return greedy(path, prompt, max_tokens).text


def chat_tokens(path: Path, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The prompt that the model's own template makes of `messages`, ready for an answer."""
    tokens: list[int] = tokenizer(path).apply_chat_template(
        list(messages), add_generation_prompt=True
    )
    return tokens


def text_tokens(path: Path, text: str) -> list[int]:
    """The prompt that the model's tokenizer makes of `text`, with what it puts before it."""
    tokens: list[int] = tokenizer(path).encode(text)
    return tokens


def decode(path: Path, tokens: Sequence[int]) -> str:
    """All the text of `tokens`, special tokens and a first space included."""
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
