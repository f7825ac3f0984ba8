"""Responses, conversations and their items, kept for later requests; independent of HTTP."""
