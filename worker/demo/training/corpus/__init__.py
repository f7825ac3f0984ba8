"""The text the demo model learns from, written by seeded generators: one module per kind."""
