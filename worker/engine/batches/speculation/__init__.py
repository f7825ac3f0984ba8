"""Speculative decoding: how many drafted tokens a pass verifies, and which of them are right."""
