"""Models: which are configured, and how they are opened, loaded and evicted."""
