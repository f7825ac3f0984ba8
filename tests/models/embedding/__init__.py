"""Tiny embedding models and rerankers as folders of the hub."""
