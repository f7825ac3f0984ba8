"""How deeply free-form values of a request may be nested."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from msgspec import inspect

MAX_DEPTH = 64


@functools.cache
def free_fields(kind: type) -> tuple[str, ...]:
    """The fields of the struct `kind` whose type lets anything in."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    return tuple(field.name for field in shape.fields if _is_free(field.type))


def deeper_than(limit: int, value: object) -> bool:
    """Whether `value` is nested in more than `limit` levels."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _is_free(shape: inspect.Type) -> bool:
    match shape:
        case inspect.AnyType():
            return True
        case inspect.UnionType():
            return any(map(_is_free, shape.types))
        case inspect.ListType():
            return _is_free(shape.item_type)
        case inspect.DictType():
            return _is_free(shape.value_type)
        case inspect.StructType():
            return any(_is_free(field.type) for field in shape.fields)
        case _:
            return False


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in free_fields(type(value))]
    return value if isinstance(value, list) else ()
