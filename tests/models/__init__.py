"""Tiny real models in mlx-lm's own format: untrained weights, real tokenizers and templates."""
