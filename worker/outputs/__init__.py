"""Outputs: the tokens of one request to its events."""
