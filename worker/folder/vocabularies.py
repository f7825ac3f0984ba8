"""Whether two models have the same vocabulary, so that one's tokens are the other's."""

from __future__ import annotations

from collections.abc import Mapping

# How many differences are named.
NAMED = 3


def describe_difference(own: Mapping[str, int], other: Mapping[str, int]) -> str:
    """How the other vocabulary, of ids by text, differs from the own one; empty if it does not."""
    texts = [text for text in own if other.get(text) != own[text]]
    texts += [text for text in other if text not in own]
    if not texts:
        return ""
    named = ", ".join(
        repr(text) for text in sorted(texts, key=lambda each: (len(each), each))[:NAMED]
    )
    return f"{len(texts)} of {len(own)} tokens differ, such as {named}"
