"""Endpoints that generate text, and those of a model's tokenizer."""
