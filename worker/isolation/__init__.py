"""Isolation: child processes for work that may take too long or need too much memory."""
