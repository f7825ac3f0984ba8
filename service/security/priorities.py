"""Priorities of requests: what a client may ask for.

A lower number comes first, as in vLLM. The operator bounds it, for each API key or for all. By
default a client may only put its own requests behind those of others.
"""

from __future__ import annotations

from service.errors import InvalidRequest

# What a request has that asks for none; a client that sends it asks for none, too.
DEFAULT_PRIORITY = 0


def bound_priority(asked: int, least: int) -> int:
    """The priority of a request that asks for this one, where `least` is the lowest allowed.

    Raises:
        InvalidRequest: it asks for a lower one.
    """
    if asked == DEFAULT_PRIORITY:
        return max(DEFAULT_PRIORITY, least)
    if asked < least:
        raise InvalidRequest(
            f"`priority` must be at least {least} for this client; a lower number comes first. "
            "The operator sets the bound: `key_priority`, or `priority` of an API key.",
            param="priority",
            code="integer_below_min_value",
        )
    return asked
