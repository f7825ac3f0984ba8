"""JSON values of clients and models: how deeply they nest, and what in them is no text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Of a free-form value. Templates, grammars and msgspec recurse.
MAX_DEPTH = 64


def children_of(value: object) -> Iterable[object]:
    """The values in a JSON object or array."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def deeper_than(
    limit: int, value: object, list_children: Callable[[object], Iterable[object]] = children_of
) -> bool:
    """Whether `value` has more than `limit` levels of nesting."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for parent in level for child in list_children(parent)]
        if not level:
            return False
    return True


def replace_halves(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can escape and which are no text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
