"""Real clients in environments of their own, each with one scenario against a real service."""
