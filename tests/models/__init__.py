"""Tiny models in mlx-lm's format: random weights, real tokenizers and chat templates."""
