"""Reads calls whose arguments are text between tags, typed by the tool's schema.

A tag ends a value only if the syntax goes on after it, so a value may contain any tag. A value
whose closing tag was left out ends before the next tag that can only be the syntax's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import regex

from worker.call_readers.argument_values import convert, parse_nested, unwrap_cdata
from worker.call_readers.call_writer import CallWriter, dump_json, escape_text
from worker.call_readers.declared_tools import SPACE, DeclaredTools
from worker.call_readers.source import Reading, Source, Unreadable

NOTHING = regex.compile("(?!)")
STRING_ATTRIBUTES = frozenset({"true", "string"})


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Each argument between tags, as text: `key`, the value, `close`.

    `padding` is around each value. With `nested` the items of objects and arrays are tagged, too.
    """

    headers: Sequence[str]
    key: str
    close: str
    footer: str = ""
    padding: str = ""
    nested: str = ""
    cdata: bool = False


@dataclass(slots=True)
class Argument:
    """One argument: its key, the pattern of its end, and whether its value is a string."""

    key: str
    close: str
    is_string: bool
    is_json: bool = False


class TaggedReader:
    """Reads one call; `start` and `end` are the markers of its section."""

    def __init__(self, form: TaggedArguments, tools: DeclaredTools, start: str, end: str) -> None:
        self._form = form
        self._tools = tools
        self._padding = form.padding
        follow = [form.key, *filter(None, (form.footer, end, start))]
        follows = f"(?={SPACE}(?:{tools.pattern(*follow)}))"
        self._header = regex.compile(f"(?:{tools.pattern(*form.headers)})")
        # The opening of a call is certain once its first argument or its end follows.
        self.opening = regex.compile(f"(?:{tools.pattern(*form.headers)}){nameless(follows)}")
        self._key = tools.compile(" " + form.key)
        self._footer = tools.compile(" " + form.footer) if form.footer else None
        after = nameless(tools.pattern(*filter(None, (form.key, form.footer, end))))
        self._after_close = regex.compile(f"{SPACE}(?:{after})")
        self._section_start = tools.compile(" " + start) if start else NOTHING
        self._section_end = tools.compile(" " + end) if end and form.footer else None
        self._last_tag = tools.pattern(form.footer or end)
        self._key_text = tools.pattern(form.key)
        self._value_ends: dict[str, regex.Pattern[str]] = {}

    def read(self, source: Source, writer: CallWriter) -> Reading[None]:
        """Read one call; its opening matches.

        Raises:
            Unreadable: the text ends inside it.
        """
        match = yield from source.match(self._header)
        assert match is not None
        name = match["name"]
        source.take(match.end())
        writer.start(name)
        writer.write("{")
        separator = ""
        seen: set[str] = set()
        while (opening := (yield from source.match(self._key))) is not None:
            source.take(opening.end())
            argument = self._argument(name, opening)
            writer.write(f"{separator}{dump_json(argument.key)}: ")
            seen.add(argument.key)
            yield from self._read_value(source, writer, name, argument, seen)
            separator = ", "
        if self._footer and (footer := (yield from source.match(self._footer))) is not None:
            source.take(footer.end())
        elif source.final and source.truncated:
            raise Unreadable
        writer.write("}")

    def _argument(self, name: str, opening: regex.Match[str]) -> Argument:
        groups = opening.groupdict()
        key = groups["key"].strip()
        told = groups.get("string") or groups.get("type")
        types = self._tools.types(name, key)
        containers = types & {"array", "object"}
        is_string = told in STRING_ATTRIBUTES if told else "string" in types and not containers
        return Argument(
            key=key,
            close=self._form.close.replace("{key}", key),
            is_string=is_string,
            is_json=bool(told) and not is_string,
        )

    # ------------------------------------------------------------ one value

    def _read_value(
        self, source: Source, writer: CallWriter, name: str, argument: Argument, seen: set[str]
    ) -> Reading[None]:
        if argument.is_string and not self._form.cdata:
            text = StringWriter(writer, self._padding)
            yield from self._read_text(source, name, argument, seen, text.write)
            text.end()
            return
        parts: list[str] = []
        yield from self._read_text(source, name, argument, seen, parts.append)
        writer.write(self._convert("".join(parts), name, argument))

    def _convert(self, text: str, name: str, argument: Argument) -> str:
        text = strip_padding(text, self._padding)
        if self._form.cdata:
            text = unwrap_cdata(text)
        if argument.is_string:
            return dump_json(text)
        schema, root = self._tools.schema(name, argument.key), self._tools.parameters(name)
        if self._form.nested:
            return dump_json(parse_nested(text, schema, root, self._form.nested))
        types = self._tools.types(name, argument.key)
        return convert(text, frozenset() if argument.is_json else types)

    def _read_text(
        self,
        source: Source,
        name: str,
        argument: Argument,
        seen: set[str],
        write: Callable[[str], object],
    ) -> Reading[None]:
        """Pass the value's text on to `write` as it arrives, and take its closing tag.

        Raises:
            Unreadable: the token limit ended the answer inside the value.
        """
        pattern = self._value_end(argument.close)
        while True:
            waits = not source.final or source.truncated
            match = pattern.search(source.rest, partial=waits)
            write(source.take(match.start() if match else len(source.rest)))
            if match is None or match.partial:
                if source.final and source.truncated:
                    raise Unreadable
                if source.final:
                    return
                yield
                continue
            length = match.end() - match.start()
            if (yield from self._ends_value(source, match, name, seen)):
                if match["close"]:
                    source.take(length)
                return
            write(source.take(max(length, 1)))

    def _ends_value(
        self, source: Source, match: regex.Match[str], name: str, seen: set[str]
    ) -> Reading[bool]:
        """Whether the tag, which is next in `source`, ends the value."""
        length = match.end() - match.start()
        if match["close"]:
            return (yield from follows(source, self._after_close, length))
        if not match["last"]:
            key = match["key"].strip()
            return key not in seen and self._tools.schema(name, key) is not None
        if self._section_end is not None:
            end = yield from source.match(self._section_end, length)
            if end is None:
                refuse_cut(source, self._section_end, length)
                return source.final and not source.rest[length:].strip()
            length = end.end()
        return (yield from follows(source, self._section_start, length))

    def _value_end(self, close: str) -> regex.Pattern[str]:
        """The pattern of the tags that may end a value."""
        if close not in self._value_ends:
            # Without padding a line break before the end of the call is no part of the value.
            break_before = "" if self._padding else r"\n?"
            self._value_ends[close] = regex.compile(
                rf"(?P<close>{regex.escape(close)})|{break_before}(?P<last>{nameless(self._last_tag)})"
                rf"|\n{self._key_text}"
            )
        return self._value_ends[close]


class StringWriter:
    """Writes a string argument as its text arrives, without the padding around it."""

    def __init__(self, writer: CallWriter, padding: str) -> None:
        self._writer = writer
        self._padding = padding
        self._held = ""
        self._begun = False
        writer.write('"')

    def write(self, text: str) -> None:
        """Write more text; what may be padding is held back."""
        if not text:
            return
        if not self._begun:
            text, self._begun = text.removeprefix(self._padding), True
        text = self._held + text
        ends = bool(self._padding) and text.endswith(self._padding)
        end = len(text) - len(self._padding) if ends else len(text)
        self._held = text[end:]
        self._writer.write(escape_text(text[:end]))

    def end(self) -> None:
        """End the string."""
        self._writer.write('"')


def follows(source: Source, pattern: regex.Pattern[str], position: int) -> Reading[bool]:
    """Whether `pattern` matches at `position`, or only white space does until the answer ends.

    Raises:
        Unreadable: the token limit ended the answer before this is known.
    """
    if (yield from source.match(pattern, position)) is not None:
        return True
    refuse_cut(source, pattern, position)
    return source.final and not source.rest[position:].strip()


def refuse_cut(source: Source, pattern: regex.Pattern[str], position: int) -> None:
    """Refuse a text that the token limit ended where `pattern` may begin.

    Raises:
        Unreadable: it did.
    """
    if source.truncated and pattern.match(source.rest, position, partial=True) is not None:
        raise Unreadable


def strip_padding(text: str, padding: str) -> str:
    """The value without the padding on both of its sides."""
    return text.removeprefix(padding).removesuffix(padding)


def nameless(expression: str) -> str:
    """The expression without named groups, to be used beside another with the same names."""
    return re.sub(r"\(\?P<\w+>", "(?:", expression)
