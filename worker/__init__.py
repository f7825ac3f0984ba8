"""The worker process: one thread owns MLX; it loads models, caches prefixes and generates."""
