"""The model built into the package: its corpus, its training and its evaluation."""

from __future__ import annotations

from pathlib import Path


def demo_model_path() -> Path:
    """The folder of the built-in model, in mlx-lm's format."""
    return Path(__file__).parent / "model"
