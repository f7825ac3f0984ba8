"""Security: who may send requests, and how much."""
