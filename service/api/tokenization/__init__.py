"""Endpoints of a model's tokenizer alone."""
