"""How model families write tool calls: finding them in text, reading them, and their grammar."""
