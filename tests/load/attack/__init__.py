"""Hostile clients, each a process of its own: only the standard library, so that they start fast.

`python -m tests.load.attack KIND` sends until it is ended, and prints each outcome as a line.
"""
