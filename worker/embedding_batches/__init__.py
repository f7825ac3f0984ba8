"""Vectors and scores of texts: which texts share a device call, and how long it may take."""
