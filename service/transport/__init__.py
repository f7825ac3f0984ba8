"""Connections: accepted within limits, framed by HTTP/1.1, and closed in time."""
