"""Unknown fields of a request: dropped where they change nothing, else refused or ignored.

`messages` ignores unknown keys of messages and refuses other unknown fields; `refuse` refuses
and `warn` ignores all of them. What is ignored is logged, and listed in a response header.
Labels and values that say nothing are dropped in each case.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from msgspec import inspect
from starlette.types import Scope

from service.errors import InvalidRequest, excerpt
from service.schema.annotations import (
    REFUSED_KEYS,
    is_in_message,
    is_label,
    is_neutral,
    is_turned_off,
    says_nothing,
)

logger = logging.getLogger(__name__)

UnknownFields = Literal["messages", "refuse", "warn"]

MAX_WARNINGS = 16
# One body may have any number of them.
MAX_KEPT = 1000
IGNORED_HEADER = "x-mlxd-ignored"
IGNORED_KEY = "ignored_fields"
MAX_NAMES = 16
MAX_NAME_CHARS = 128
MAX_HEADER_CHARS = 256
SEPARATOR = ", "
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.\[\]-]")


class UnknownField(NamedTuple):
    """An unknown field that may have an effect: its object's place, its path and key."""

    place: str
    path: str
    key: str


def drop_unknown_fields(
    document: Any, request_type: type, unknown_fields: UnknownFields
) -> list[str]:
    """Delete the unknown fields of `document`; the paths of those that are ignored, logged.

    It returns at most `MAX_KEPT`.

    Raises:
        InvalidRequest: an unknown field is refused; the error names it.
    """
    ignored: dict[str, str] = {}
    for field in _drop(document, _shape_of(request_type), "", ""):
        if unknown_fields != "warn":
            _refuse(field, unknown_fields)
        # Many elements of a list may have the same field.
        if len(ignored) < MAX_KEPT:
            ignored.setdefault(f"{field.place}.{field.key}".removeprefix("."), field.path)
    _log_ignored(list(ignored))
    return list(ignored.values())


def ignored_of(scope: Scope) -> list[str]:
    """The names of the fields that are ignored of the request with this `scope`, to be added to."""
    names: list[str] = scope.setdefault("state", {}).setdefault(IGNORED_KEY, [])
    return names


def header_of(ignored: Iterable[str]) -> str:
    """The value of `x-mlxd-ignored`: the names that fit, each of safe characters."""
    value = ""
    names = [NOT_IN_NAMES.sub("_", path[:MAX_NAME_CHARS]) for path in ignored]
    for name in list(dict.fromkeys(names))[:MAX_NAMES]:
        longer = f"{value}{SEPARATOR}{name}" if value else name
        if len(longer) <= MAX_HEADER_CHARS:
            value = longer
    return value


def _refuse(field: UnknownField, unknown_fields: UnknownFields) -> None:
    if unknown_fields == "messages" and is_in_message(field.place):
        advice = REFUSED_KEYS.get(field.key)
        if advice is None:
            return
        message = f"`{excerpt(field.path, 100)}` is not supported: {advice}."
        raise InvalidRequest(message, param=field.path, code="unsupported_parameter")
    message = f"Unknown parameter: `{excerpt(field.path, 100)}`."
    raise InvalidRequest(message, param=field.path, code="unknown_parameter")


def _log_ignored(names: list[str]) -> None:
    for name in names[:MAX_WARNINGS]:
        logger.warning("Ignored the unknown parameter %s", excerpt(name, 100))
    if len(names) > MAX_WARNINGS:
        least = "at least " if len(names) == MAX_KEPT else ""
        count = len(names) - MAX_WARNINGS
        logger.warning("Ignored %s%d more unknown parameters", least, count)


def _drop(value: Any, shape: inspect.Type, path: str, place: str) -> Iterator[UnknownField]:
    """Delete the fields of `value` that `shape` lacks; yield those that may have an effect.

    `place` is `path` without indexes.
    """
    match shape:
        case inspect.Metadata():
            yield from _drop(value, shape.type, path, place)
        case inspect.StructType(forbid_unknown_fields=True) if isinstance(value, dict):
            yield from _drop_of_struct(value, shape, path, place)
        case inspect.ListType() if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _drop(item, shape.item_type, f"{path}[{index}]", f"{place}[]")
        case inspect.UnionType():
            for member in shape.types:
                if _is_member(value, member):
                    yield from _drop(value, member, path, place)


def _drop_of_struct(
    value: dict[str, Any], shape: inspect.StructType, path: str, place: str
) -> Iterator[UnknownField]:
    known = _fields_of(shape.cls)
    is_other_kind = _is_other_kind(value, known)
    prefix, place_prefix = (f"{path}.", f"{place}.") if path else ("", "")
    for name in list(value):
        if name in known:
            # Most values are text, which has no fields.
            if isinstance(value[name], dict | list):
                yield from _drop(value[name], known[name], prefix + name, place_prefix + name)
        elif name != shape.tag_field:
            dropped = value.pop(name)
            has_effect = not (
                says_nothing(dropped)
                or is_label(place, value.get("role"), name)
                or is_neutral(place, name, dropped)
                or is_turned_off(place, name, dropped)
            )
            # An object of another type is refused for its type, not for its fields.
            if has_effect and not is_other_kind:
                yield UnknownField(place, prefix + name, name)


@functools.cache
def _shape_of(struct: type) -> inspect.Type:
    return inspect.type_info(struct)


@functools.cache
def _fields_of(struct: type) -> dict[str, inspect.Type]:
    """The types of a struct's fields, by the names in JSON."""
    shape = _shape_of(struct)
    assert isinstance(shape, inspect.StructType)
    return {field.encode_name: field.type for field in shape.fields}


def _is_other_kind(value: dict[str, Any], known: dict[str, inspect.Type]) -> bool:
    """Whether the `type` of an object is another one, such as a part that is an image."""
    kind = known.get("type")
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    values = [each.values for each in kinds if isinstance(each, inspect.LiteralType)]
    return bool(values) and value.get("type") is not None and value["type"] not in values[0]


def _is_member(value: Any, shape: inspect.Type) -> bool:
    """Whether `value` is of this type of a union, by its tag or by being a list."""
    match shape:
        case inspect.StructType(tag=None):
            return isinstance(value, dict)
        case inspect.StructType():
            return isinstance(value, dict) and value.get(shape.tag_field) == shape.tag
        case _:
            return isinstance(shape, inspect.ListType) and isinstance(value, list)
