"""Finds the adapter for a model from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.adapters.adapter import ModelAdapter


class AdapterRegistry:
    """Adapters by model family, with one for every family that has none."""

    def __init__(self, default: ModelAdapter) -> None:
        self._default = default
        self._adapters: dict[str, ModelAdapter] = {}

    def register_adapter(self, family: str, adapter: ModelAdapter) -> None:
        """Use `adapter` for `family`.

        Raises:
            TypeError: `adapter` lacks a method of `ModelAdapter`.
            ValueError: the family already has an adapter.
        """
        if not isinstance(adapter, ModelAdapter):
            raise TypeError(f"{type(adapter).__name__} is no ModelAdapter")
        if family in self._adapters:
            raise ValueError(f"family {family!r} already has an adapter")
        self._adapters[family] = adapter

    def adapter_for(self, family: str) -> ModelAdapter:
        """The family's own adapter, or the default one."""
        return self._adapters.get(family, self._default)


def detect_model_family(config: Mapping[str, Any]) -> str:
    """The family that config.json names: `model_type`, of the text part where there are several."""
    text_config = config.get("text_config") or {}
    return str(config.get("model_type") or text_config.get("model_type") or "unknown")
