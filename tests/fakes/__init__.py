"""A worker process without MLX, and the real service that runs it."""
