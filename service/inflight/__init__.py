"""Requests in flight, resumed after a worker crash."""
