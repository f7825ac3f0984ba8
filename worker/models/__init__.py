"""Models: which exist, and how they are opened, loaded and evicted."""
