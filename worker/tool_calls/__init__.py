"""Tool calls: how model families write them, and how they are parsed."""
