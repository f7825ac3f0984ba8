"""Reads calls whose arguments are literals, as in Python or in Gemma's notation.

A call is written once it is complete; if the token limit cuts it, as far as it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.call_readers.call_writer import CallWriter, dump_json
from worker.call_readers.declared_tools import DeclaredTools
from worker.call_readers.literals import PYTHON, LiteralReader, Notation
from worker.call_readers.source import Reading, Source, Unreadable


@dataclass(frozen=True, slots=True)
class LiteralArguments:
    """`get(city="Paris", days=2)`, or `call:get{city:"Paris",days:2}`."""

    headers: Sequence[str]
    end: str = ")"
    notation: Notation = PYTHON


class LiteralCallReader:
    """Reads one call of a form with literals."""

    def __init__(self, form: LiteralArguments, tools: DeclaredTools) -> None:
        self._form = form
        self.opening = tools.compile(*form.headers)

    def read(self, source: Source, writer: CallWriter) -> Reading[None]:
        """Read one call; its opening matches.

        Raises:
            Unreadable: the arguments are in no known notation, or do not end.
        """
        match = yield from source.match(self.opening)
        assert match is not None
        name = match["name"]
        source.take(match.end())
        pairs: list[tuple[str, Any]] = []
        literals = LiteralReader(source, self._form.notation)
        try:
            yield from literals.pairs(self._form.end, self._form.notation.assign, 1, pairs)
        except Unreadable:
            if source.final and source.truncated:
                writer.start(name)
                writer.write(dump_pairs(pairs).removesuffix("}"))
            raise
        text = dump_pairs(pairs)
        writer.start(name)
        writer.write(text)


def dump_pairs(pairs: list[tuple[str, Any]]) -> str:
    """The arguments as JSON.

    Raises:
        Unreadable: a number is infinite.
    """
    try:
        return dump_json(dict(pairs))
    except ValueError:
        raise Unreadable from None
