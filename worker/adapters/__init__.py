"""What mlx-lm cannot infer about a model family, one file a family.

A family that needs nothing special needs no code: it gets `DefaultAdapter`.
To add one, write an adapter and register it for the `model_type`s of its
config.json in `build_registry`.
"""

from __future__ import annotations

from worker.adapters.adapter import ModelAdapter
from worker.adapters.default import DefaultAdapter
from worker.adapters.llama import LlamaAdapter
from worker.adapters.registry import AdapterRegistry, detect_model_family

__all__ = [
    "AdapterRegistry",
    "DefaultAdapter",
    "LlamaAdapter",
    "ModelAdapter",
    "build_registry",
    "detect_model_family",
]


def build_registry() -> AdapterRegistry:
    """The families that mlxd knows."""
    registry = AdapterRegistry(default=DefaultAdapter())
    registry.register_adapter("llama", LlamaAdapter())
    return registry
