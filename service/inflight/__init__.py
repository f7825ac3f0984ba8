"""Requests in flight, and their resume after a worker crash."""
