"""The limit on the nesting of free-form values in a request."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from msgspec import inspect

MAX_DEPTH = 64


@functools.cache
def free_form_fields(kind: type) -> tuple[str, ...]:
    """The fields of the struct `kind` whose type allows any JSON value, at any depth."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    return tuple(field.name for field in shape.fields if _is_free_form(field.type))


def deeper_than(limit: int, value: object) -> bool:
    """Whether `value` has more than `limit` levels of nesting."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _is_free_form(shape: inspect.Type) -> bool:
    match shape:
        case inspect.AnyType():
            return True
        case inspect.UnionType():
            return any(map(_is_free_form, shape.types))
        case inspect.ListType():
            return _is_free_form(shape.item_type)
        case inspect.DictType():
            return _is_free_form(shape.value_type)
        case inspect.StructType():
            return any(_is_free_form(field.type) for field in shape.fields)
        case _:
            return False


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in free_form_fields(type(value))]
    return value if isinstance(value, list) else ()
