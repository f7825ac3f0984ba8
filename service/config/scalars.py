"""Settings with a single value: their names, descriptions and checks, all made from their types."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

from service.errors import excerpt

VARIABLE_PREFIX = "MLXD_"
# The format of a string that is a path, or one of the values that are not paths.
PATH = "path"
# Control characters and line breaks, and surrogates: bytes that are not UTF-8.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NOT_PATHS = ("", "off", "auto", "memory")


class SettingsError(Exception):
    """A setting is invalid. The message is one line: the setting's source, and the reason."""


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting with a single value."""

    name: str
    description: str
    default: int | float | str
    annotation: Any
    shape: inspect.Type
    is_path: bool = False

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def kind(self) -> str:
        """The type and the bounds of the value, in words."""
        match self.shape:
            case inspect.IntType(ge=low, le=high):
                return f"a whole number from {low} to {high}"
            case inspect.FloatType(gt=None, ge=low, le=high):
                return f"a number from {low:g} to {high:g}"
            case inspect.FloatType(gt=low, le=high):
                return f"a number above {low:g}, up to {high:g}"
            case inspect.LiteralType(values=words):
                return f"one of {', '.join(map(str, words))}"
            case inspect.UnionType(
                types=(inspect.IntType(ge=low, le=high), inspect.LiteralType(values=words))
            ):
                return f"a whole number from {low} to {high}, or {' or '.join(map(str, words))}"
            case inspect.StrType(pattern=str(pattern)):
                return f"a string that matches {pattern}"
            case inspect.StrType(min_length=None):
                return "a string"
            case _:
                return "a non-empty string"

    def parse(self, text: str, origin: str) -> Any:
        """Parse `text`, the value of a variable or a flag.

        Raises:
            SettingsError: `text` is not a valid value.
        """
        try:
            match self.shape:
                case inspect.IntType():
                    return self.check(int(text), origin)
                case inspect.FloatType():
                    return self.check(float(text), origin)
                case inspect.UnionType(types=(_, inspect.LiteralType(values=words))):
                    return self.check(text if text in words else int(text), origin)
                case _:
                    return self.check(text, origin)
        except ValueError:
            raise self._invalid(text, origin) from None

    def check(self, value: object, origin: str) -> Any:
        """Check the type and the bounds of `value`, and return it.

        Raises:
            SettingsError: `value` is not valid.
        """
        try:
            refuse_control_characters(value, origin)
            if isinstance(value, float) and not math.isfinite(value):
                raise self._invalid(value, origin)
            checked = msgspec.convert(value, self.annotation)
        except msgspec.ValidationError:
            raise self._invalid(value, origin) from None
        return expand_home(checked, origin) if self.is_path else checked

    def absolute(self, value: Any) -> Any:
        """`value`, with a path made absolute: it no longer depends on the working directory."""
        if not self.is_path or value in NOT_PATHS:
            return value
        return str(Path(value).expanduser().absolute())

    def _invalid(self, value: object, origin: str) -> SettingsError:
        return SettingsError(f"{origin}: {excerpt(repr(value), 100)} is not {self.kind}")


def expand_home(path: str, origin: str) -> str:
    """The path with the folder of the user for `~` or `~name` at its beginning.

    Raises:
        SettingsError: there is no such user.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise SettingsError(f"{origin}: {excerpt(path, 100)}: {error}") from None


def path_meta(description: str, *, min_length: int | None = None) -> msgspec.Meta:
    """The annotation of a setting that is a path, or one of the words that are none."""
    schema = {"format": PATH}
    return msgspec.Meta(description=description, min_length=min_length, extra_json_schema=schema)


# To read the annotations takes most of the time in which all settings are read.
@functools.cache
def list_setting_fields(
    struct: type[msgspec.Struct], *, without: tuple[str, ...]
) -> Mapping[str, SettingField]:
    """The fields of `struct` by name, in order, except those in `without`."""
    shape = inspect.type_info(struct)
    assert isinstance(shape, inspect.StructType)
    hints = get_type_hints(struct, include_extras=True)
    fields = {}
    for field in shape.fields:
        if field.name not in without:
            assert isinstance(field.type, inspect.Metadata)
            schema = field.type.extra_json_schema or {}
            fields[field.name] = SettingField(
                name=field.name,
                description=schema["description"],
                default=field.default,
                annotation=hints[field.name],
                shape=field.type.type,
                is_path=schema.get("format") == PATH,
            )
    return MappingProxyType(fields)


def refuse_control_characters(value: object, origin: str) -> None:
    """Refuse control characters and bytes that are not UTF-8 in strings, at any depth.

    No file, host or log can be used with all of them, and a terminal obeys some.

    Raises:
        SettingsError: a string has one.
    """
    match value:
        case str() if UNSAFE.search(value):
            shown = excerpt(repr(value), 100)
            raise SettingsError(f"{origin}: {shown} has a control character, or is not UTF-8")
        case list() | tuple():
            for item in value:
                refuse_control_characters(item, origin)
        case dict():
            for item in value.values():
                refuse_control_characters(item, origin)


def refuse_unknown(names: Iterable[str], known: Iterable[str], origin: str) -> None:
    """Refuse the first unknown name, and suggest the most similar known one.

    Raises:
        SettingsError: a name is unknown.
    """
    known = list(known)
    for name in sorted(set(names) - set(known)):
        similar = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {similar[0]}?" if similar else ""
        raise SettingsError(f"{origin}: {excerpt(name, 100)} is unknown{advice}")
