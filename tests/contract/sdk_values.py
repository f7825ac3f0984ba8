"""Values of a package's types: each field, each member of a union and each word, at least once.

A value is varied in one place, and minimal in the others.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import is_typeddict

SCALARS: dict[Any, list[Any]] = {
    str: ["x"],
    int: [1],
    float: [0.5],
    bool: [True, False],
    type(None): [None],
    object: [{}],
    Any: [{}],
}
SEQUENCES = (list, Iterable, Sequence)
MAPPINGS = (dict, Mapping)


class Varied(NamedTuple):
    """A value, and the path of the place that differs from the minimal one."""

    path: str
    value: Any


def vary(kind: Any, path: str = "") -> Iterator[Varied]:
    """All variations of a value of this type; the first is the minimal one."""
    origin, members = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        yield from _vary_fields(kind, path)
    elif origin in (Union, types.UnionType):
        for member in members:
            yield from vary(member, path)
    elif origin in MAPPINGS:
        yield from (Varied(each.path, {"k": each.value}) for each in vary(members[1], path))
    elif origin in SEQUENCES or getattr(origin, "__name__", "") == "SequenceNotStr":
        yield from (Varied(each.path, [each.value]) for each in vary(members[0], f"{path}[0]"))
    else:
        words = members if origin is Literal else SCALARS.get(kind, ["x"])
        yield from (Varied(path, word) for word in words)


def _vary_fields(kind: Any, path: str) -> Iterator[Varied]:
    hints = get_type_hints(kind)
    minimal = {name: minimum(hints[name]) for name in required_names(kind)}
    yield Varied(path, minimal)
    for name, hint in hints.items():
        for each in vary(hint, f"{path}.{name}" if path else name):
            yield Varied(each.path, {**minimal, name: each.value})


def required_names(kind: Any) -> list[str]:
    """The fields that a value must have; `__required_keys__` misses those of text annotations."""
    marked = get_type_hints(kind, include_extras=True)
    return [
        name
        for name, hint in marked.items()
        if get_origin(hint) is Required or (kind.__total__ and get_origin(hint) is not NotRequired)
    ]


def minimum(kind: Any) -> Any:
    """The minimal value of a type."""
    return next(vary(kind)).value
