"""The record of each request: what is known of it, and what is logged."""
