"""The HTTP service: serves the API, and keeps the worker running."""
