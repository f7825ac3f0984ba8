"""The training text of the demo model, by seeded generators: one module for each kind."""
