"""A process that speaks the worker's side without MLX, and the real service around it."""
