"""What is said of a model that cannot be computed by so many ranks."""

from __future__ import annotations


class NotSplittable(ValueError):
    """A model that cannot be computed by so many ranks; the message says why."""
