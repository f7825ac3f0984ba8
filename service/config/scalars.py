"""Settings that are one number or one word: named, described and checked from their types."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

from service.errors import excerpt

VARIABLE_PREFIX = "MLXD_"
# The format of a text that is a path, or one of the words that stand for none.
PATH = "path"
NO_PATHS = ("", "off", "auto")


class SettingsError(Exception):
    """A setting cannot be used. The message is one line: where it came from, and why."""


@dataclass(frozen=True, slots=True)
class SettingField:
    """One scalar setting, and what is said of it everywhere."""

    name: str
    description: str
    default: int | float | str
    annotation: Any
    shape: inspect.Type
    is_path: bool = False

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def kind(self) -> str:
        """Which values it takes, in words."""
        match self.shape:
            case inspect.IntType(ge=low, le=high):
                return f"a whole number from {low} to {high}"
            case inspect.FloatType(gt=None, ge=low, le=high):
                return f"a number from {low:g} to {high:g}"
            case inspect.FloatType(gt=low, le=high):
                return f"a number above {low:g}, up to {high:g}"
            case inspect.LiteralType(values=words):
                return f"one of {', '.join(map(str, words))}"
            case inspect.StrType(min_length=None):
                return "a text"
            case _:
                return "a text that is not empty"

    def parse(self, text: str, origin: str) -> Any:
        """The value written as `text` in a variable or a flag.

        Raises:
            SettingsError: it is none.
        """
        try:
            match self.shape:
                case inspect.IntType():
                    return self.check(int(text), origin)
                case inspect.FloatType():
                    return self.check(float(text), origin)
                case _:
                    return self.check(text, origin)
        except ValueError:
            raise self._refuse(text, origin) from None

    def check(self, value: object, origin: str) -> Any:
        """`value` if it is of the type and within the bounds.

        Raises:
            SettingsError: it is not.
        """
        try:
            if isinstance(value, float) and not math.isfinite(value):
                raise self._refuse(value, origin)
            return msgspec.convert(value, self.annotation)
        except msgspec.ValidationError:
            raise self._refuse(value, origin) from None

    def absolute(self, value: Any) -> Any:
        """`value` as it means the same in any folder."""
        if not self.is_path or value in NO_PATHS:
            return value
        return str(Path(value).expanduser().absolute())

    def _refuse(self, value: object, origin: str) -> SettingsError:
        return SettingsError(f"{origin}: {excerpt(repr(value), 100)} is not {self.kind}")


def list_setting_fields(
    struct: type[msgspec.Struct], *, without: Collection[str]
) -> dict[str, SettingField]:
    """The fields of `struct` by name, in order, all but those that are no scalars."""
    shape = inspect.type_info(struct)
    assert isinstance(shape, inspect.StructType)
    hints = get_type_hints(struct, include_extras=True)
    scalars = {}
    for field in shape.fields:
        if field.name not in without:
            assert isinstance(field.type, inspect.Metadata)
            described = field.type.extra_json_schema or {}
            scalars[field.name] = SettingField(
                name=field.name,
                description=described["description"],
                default=field.default,
                annotation=hints[field.name],
                shape=field.type.type,
                is_path=described.get("format") == PATH,
            )
    return scalars


def refuse_unknown(names: Iterable[str], known: Iterable[str], origin: str) -> None:
    """Refuse the first name that is not known, and suggest the nearest that is.

    Raises:
        SettingsError: there is one.
    """
    known = list(known)
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{origin}: {excerpt(name, 100)} is unknown{advice}")
