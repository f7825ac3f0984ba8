"""POST /v1/completions: the shapes of a completion."""
