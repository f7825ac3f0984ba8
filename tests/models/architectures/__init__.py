"""A tiny model of every family that mlx-lm has, by the `model_type` of config.json."""
