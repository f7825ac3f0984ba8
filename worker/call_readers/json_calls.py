"""Reads calls whose arguments are JSON: objects with a name and arguments, or JSON after a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from worker.call_readers.call_writer import CallWriter, dump_json
from worker.call_readers.declared_tools import SPACE, DeclaredTools
from worker.call_readers.partial_json import collect_json, stream_json
from worker.call_readers.source import Reading, Source, Unreadable

NAME_KEYS = frozenset({"name", "tool_name", "function_name"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters", "args"})
# What an object may have besides; another key's value would be lost.
OTHER_KEYS = frozenset({"id", "tool_call_id", "call_id", "index", "type"})
# An object with a name and arguments as its value.
INNER_KEYS = frozenset({"function", "tool"})
KEYS = "|".join(sorted(NAME_KEYS | ARGUMENT_KEYS | OTHER_KEYS | INNER_KEYS))
# The type of an argument's value begins with one of these: an object, null, or a string of JSON.
FIRST_CHARACTERS = frozenset('{n"')


@dataclass(frozen=True, slots=True)
class JsonObjects:
    """`{"name": "get", "arguments": {"city": "Paris"}}`; `keyed`: `{"get": {"city": "Paris"}}`."""

    keyed: bool = False


@dataclass(frozen=True, slots=True)
class NamedJson:
    """A name in one of the `headers`, then the arguments as JSON, then perhaps the `footer`."""

    headers: Sequence[str]
    footer: str = ""


class NamedJsonReader:
    """Reads a call whose name is in a header before its arguments."""

    def __init__(self, form: NamedJson, tools: DeclaredTools) -> None:
        self.opening = tools.compile(*form.headers)
        self._footer = tools.compile(" " + form.footer) if form.footer else None

    def read(self, source: Source, writer: CallWriter) -> Reading[None]:
        """Read one call; its opening matches.

        Raises:
            Unreadable: there is none, or its arguments are not JSON.
        """
        match = yield from source.match(self.opening)
        assert match is not None
        name = match["name"]
        source.take(match.end())
        writer.named = name
        yield from read_arguments(source, writer, name)
        if self._footer is not None:
            yield from source.take_match(self._footer)


class JsonObjectReader:
    """Reads a call that is an object with a name and arguments, in any order."""

    def __init__(self, form: JsonObjects, tools: DeclaredTools) -> None:
        self._tools = tools
        self._keyed = form.keyed
        first = tools.pattern("{name}") if form.keyed else f"(?:{KEYS})"
        self.opening = regex.compile(rf"\{{{SPACE}\"{first}\"")

    def read(self, source: Source, writer: CallWriter) -> Reading[None]:
        """Read one call; its opening matches.

        Raises:
            Unreadable: there is none, or its arguments are not JSON.
        """
        call = JsonCall()
        try:
            yield from self._read_object(source, writer, call)
        except Unreadable:
            # What follows complete arguments may be missing, a brace for one.
            if not call.complete:
                raise
        if call.complete:
            return
        if call.name not in self._tools.names:
            raise Unreadable
        arguments = decode_arguments(call.arguments or "{}")
        writer.start(call.name)
        writer.write(arguments)

    def _read_object(self, source: Source, writer: CallWriter, call: JsonCall) -> Reading[None]:
        yield from source.expect("{")
        first = True
        while (character := (yield from source.skip_space())) != "}":
            if not first:
                if character != ",":
                    raise Unreadable
                source.take(1)
                if (yield from source.skip_space()) == "}":
                    break
            first = False
            key = yield from read_string(source)
            yield from source.expect(":")
            yield from self._read_member(source, writer, call, key)
        source.take(1)

    def _read_member(
        self, source: Source, writer: CallWriter, call: JsonCall, key: str
    ) -> Reading[None]:
        character = yield from source.skip_space()
        if call.complete and not self._keyed:
            yield from collect_json(source)
        elif self._keyed:
            if key not in self._tools.names or call.complete:
                raise Unreadable
            yield from self._read_arguments(source, writer, call, key)
        elif key in INNER_KEYS and character == "{":
            yield from self._read_object(source, writer, call)
        elif key in NAME_KEYS or key in INNER_KEYS:
            call.name = yield from read_string(source)
            if call.name not in self._tools.names:
                raise Unreadable
            writer.named = call.name
        elif key in ARGUMENT_KEYS:
            yield from self._read_arguments(source, writer, call, call.name)
        elif key in OTHER_KEYS:
            yield from collect_json(source)
        else:
            raise Unreadable

    @staticmethod
    def _read_arguments(
        source: Source, writer: CallWriter, call: JsonCall, name: str
    ) -> Reading[None]:
        if call.arguments or call.complete:
            raise Unreadable
        if name:
            yield from read_arguments(source, writer, name)
            call.complete = True
        else:
            call.arguments = yield from collect_json(source)


class JsonCall:
    """What an object has told of its call; `complete`: name and arguments are written."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments = ""
        self.complete = False


def read_arguments(source: Source, writer: CallWriter, name: str) -> Reading[None]:
    """Start the call, and write its arguments: as they arrive if they are an object.

    Raises:
        Unreadable: they are neither an object, null, nor JSON in a string.
    """
    character = yield from source.skip_space()
    if character not in FIRST_CHARACTERS or not character:
        raise Unreadable
    if character == "{":
        writer.start(name)
        writer.in_json = True
        yield from stream_json(source, writer.write)
        writer.in_json = False
    else:
        arguments = decode_arguments((yield from collect_json(source)))
        writer.start(name)
        writer.write(arguments)


def read_string(source: Source) -> Reading[str]:
    """The text of a JSON string.

    Raises:
        Unreadable: there is none.
    """
    if (yield from source.skip_space()) != '"':
        raise Unreadable
    text: str = json.loads((yield from collect_json(source)))
    return text


def decode_arguments(text: str) -> str:
    """Arguments as the JSON text of an object: `null` and "" stand for none.

    Raises:
        Unreadable: they are no object.
    """
    try:
        value: Any = json.loads(text)
        if isinstance(value, str) and value.strip():
            text = value
            value = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable from None
    if value is None or value == "":
        return "{}"
    if not isinstance(value, Mapping):
        raise Unreadable
    return dump_json(value)
