"""Model families: the facts that mlx-lm cannot infer from a model's own files.

A family is a `model_type` of config.json. Most families need no code: they get
`DefaultFamily`. To add a family:

1. Write a class with the methods of `ModelFamily`, in a module of its own like `llama.py`.
2. Add it to `FAMILIES` under each `model_type` that it applies to.

No other file changes. Facts that do not follow from the `model_type` are found by the
tokenizer or the chat template instead, because models of other families share them. They
are listed where they are used: `tool_calls/formats.py` has the call syntaxes,
`prompts/fill_in_middle.py` the fill-in-the-middle tokens, and
`templates/variables.py` the variables that control reasoning. mlx-lm infers the
markers of reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.models.llama import LlamaFamily
from worker.models.model_files import config_value
from worker.tool_calls.formats import find_syntax
from worker.tool_calls.prompting import GENERIC_SYNTAX
from worker.tool_calls.syntax import CallSyntax

# By `model_type`.
FAMILIES: Mapping[str, ModelFamily] = {"llama": LlamaFamily()}


@runtime_checkable
class ModelFamily(Protocol):
    """The facts of one family; they are read once, when a model's configuration is loaded.

    A method checks by the tokenizer's vocabulary whether its fact applies to the model.
    """

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        """Stop token ids besides those that the model's own files name."""

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        """The Jinja chat template for a model whose files have none; None if there is none."""

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        """How the model writes tool calls if mlx-lm has no parser for them, preferred one first."""


class DefaultFamily:
    """Adds nothing to what mlx-lm infers from the model's own files."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        return set()

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        return None

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        return ()


class FamilyRegistry:
    """Families by `model_type`, with a default for every other type."""

    def __init__(self, default: ModelFamily) -> None:
        self._default = default
        self._families: dict[str, ModelFamily] = {}

    def register_family(self, model_type: str, family: ModelFamily) -> None:
        """Register `family` for `model_type`.

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
    """A registry of `FAMILIES`."""
    registry = FamilyRegistry(default=DefaultFamily())
    for model_type, family in FAMILIES.items():
        registry.register_family(model_type, family)
    return registry


def detect_model_family(config: Mapping[str, Any]) -> str:
    """The `model_type` of config.json; "unknown" if it has none."""
    return str(config_value(config, "model_type") or "unknown")


def call_syntaxes_of(tokenizer: TokenizerWrapper, family: ModelFamily) -> tuple[CallSyntax, ...]:
    """How a model writes tool calls, preferred syntax first.

    It is the syntax that mlx-lm parses, else those of the family, else JSON in tags.
    """
    parsed_by_mlx_lm = find_syntax(tokenizer)
    if parsed_by_mlx_lm is not None:
        return (parsed_by_mlx_lm,)
    return tuple(family.call_syntaxes(tokenizer)) or (GENERIC_SYNTAX,)
