"""Model families: what mlx-lm cannot infer from a model's own files.

A family that needs nothing special needs no code: it gets `DefaultFamily`. To add
one, write a class with the methods of `ModelFamily` and register it for the
`model_type`s of its config.json in `build_registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.models.llama import LlamaFamily
from worker.tool_calls.formats import find_syntax
from worker.tool_calls.prompting import GENERIC_SYNTAX
from worker.tool_calls.syntax import CallSyntax


@runtime_checkable
class ModelFamily(Protocol):
    """The facts of one model family, read once when a model is loaded."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        """Token ids that end an answer, beyond those the model's own files name."""

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        """A Jinja chat template for a tokenizer that carries none, or None."""

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        """How the family writes tool calls where mlx-lm does not know, its own way first."""


class DefaultFamily:
    """Takes what mlx-lm infers from the model's own files."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        return set()

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        return None

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        return ()


class FamilyRegistry:
    """Families by `model_type`, with a default for every type that has none."""

    def __init__(self, default: ModelFamily) -> None:
        self._default = default
        self._families: dict[str, ModelFamily] = {}

    def register_family(self, model_type: str, family: ModelFamily) -> None:
        """Use `family` for `model_type`.

        Raises:
            TypeError: `family` lacks a method of `ModelFamily`.
            ValueError: the model type already has a family.
        """
        if not isinstance(family, ModelFamily):
            raise TypeError(f"{type(family).__name__} is not a ModelFamily")
        if model_type in self._families:
            raise ValueError(f"family {model_type!r} is already registered")
        self._families[model_type] = family

    def family_for(self, model_type: str) -> ModelFamily:
        """The registered family, or the default one."""
        return self._families.get(model_type, self._default)


def build_registry() -> FamilyRegistry:
    """The families that mlxd knows."""
    registry = FamilyRegistry(default=DefaultFamily())
    registry.register_family("llama", LlamaFamily())
    return registry


def detect_model_family(config: Mapping[str, Any]) -> str:
    """The `model_type` of config.json; that of its text part where there are several parts."""
    text_config = config.get("text_config") or {}
    return str(config.get("model_type") or text_config.get("model_type") or "unknown")


def call_syntaxes_of(tokenizer: TokenizerWrapper, family: ModelFamily) -> tuple[CallSyntax, ...]:
    """How a model writes calls: as mlx-lm knows, else as its family does, else JSON in tags."""
    known = find_syntax(tokenizer)
    return (known,) if known else tuple(family.call_syntaxes(tokenizer)) or (GENERIC_SYNTAX,)
