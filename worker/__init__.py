"""The device process: one thread owns MLX, loads, caches and generates."""
