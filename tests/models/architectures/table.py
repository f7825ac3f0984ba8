"""The configuration of each family's tiny model, and the families that cannot run here."""

from __future__ import annotations

import pkgutil

import mlx.core as mx
import mlx_lm.models

from tests.models.architectures.attention import ATTENTION
from tests.models.architectures.experts import MIXTURES
from tests.models.architectures.nested import NESTED
from tests.models.architectures.recurrent import RECURRENT
from tests.models.architectures.sizes import SIZES, Config

# Modules of mlx-lm that are parts of models.
PARTS = frozenset(
    {
        "activations",
        "base",
        "bitlinear_layers",
        "cache",
        "gated_delta",
        "mla",
        "pipeline",
        "rope_utils",
        "ssm",
        "switch_layers",
    }
)
NEEDS_METAL = "its kernel is written for Metal alone"
METAL_FAMILIES = frozenset({"bitnet", "muse_spark"})
PACKAGE_FAMILIES = {"olmo": "it needs the package ai2-olmo"}


def families() -> list[str]:
    """Every family that mlx-lm has."""
    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    return sorted(modules - PARTS)


def unavailable() -> dict[str, str]:
    """The families whose models cannot run here, and why."""
    metal = {} if mx.metal.is_available() else dict.fromkeys(METAL_FAMILIES, NEEDS_METAL)
    return PACKAGE_FAMILIES | metal


def config_of(family: str) -> Config:
    """config.json of the family's tiny model."""
    table = ATTENTION | MIXTURES | RECURRENT | NESTED
    return {**SIZES, "model_type": family, **table[family]}
