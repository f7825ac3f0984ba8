"""Which values of a request are free-form: their nesting has a limit of its own."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from msgspec import inspect

from protocol.json_values import children_of


@functools.cache
def free_form_fields(kind: type) -> tuple[str, ...]:
    """The fields of the struct `kind` whose type allows any JSON value, at any depth."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    return tuple(field.name for field in shape.fields if _is_free_form(field.type))


def list_free_form(value: object) -> Iterable[object]:
    """The values in a JSON object or array; of a struct those whose fields are free-form."""
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in free_form_fields(type(value))]
    return children_of(value)


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
