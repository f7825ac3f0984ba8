"""Prompts: messages and texts to token ids."""
