"""The HTTP process: what clients speak to, and what keeps the worker alive."""
