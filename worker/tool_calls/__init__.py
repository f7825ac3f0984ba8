"""How model families write tool calls and mark their reasoning."""
