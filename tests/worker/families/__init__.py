"""Every family of mlx-lm through the engine core, compared with mlx-lm alone."""
