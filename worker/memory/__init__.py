"""Memory: what may be used, what is reserved, and what is in use."""
