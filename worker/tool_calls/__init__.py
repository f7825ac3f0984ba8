"""Tool calls: the formats of model families, and their parsers."""
