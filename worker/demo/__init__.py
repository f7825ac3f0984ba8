"""The built-in model, in mlx-lm's format. `training/` trains it again."""

from __future__ import annotations

from pathlib import Path


def demo_model_path() -> Path:
    """The folder of the built-in model."""
    return Path(__file__).parent / "model"
