"""Outputs: one request's tokens to its events."""
