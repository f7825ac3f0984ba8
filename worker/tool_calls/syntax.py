"""The types that describe a syntax of tool calls.

A syntax is a section between two markers with calls of one or several forms. In the texts of
a form `{name}` stands for the name of a declared tool, `{key}` for an argument's, a space for
optional white space.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.call_readers.declared_tools import Tool
from worker.call_readers.json_calls import JsonObjects, NamedJson
from worker.call_readers.literal_calls import LiteralArguments
from worker.call_readers.tagged_calls import TaggedArguments

__all__ = ["CallForm", "CallSyntax", "CallTemplate", "Tool"]


CallForm = JsonObjects | NamedJson | TaggedArguments | LiteralArguments


@dataclass(frozen=True, slots=True)
class CallTemplate:
    """A section with one call, as a family formats it: the text around the name and the arguments.

    The arguments are JSON; if `is_python`, Python's. The name needs no escaping. If
    `repeatable`, several sections may follow each other.
    """

    before: str
    between: str
    after: str
    repeatable: bool = True
    is_python: bool = False

    def render(self, name: str, arguments: str) -> str:
        """The call as text; its `arguments` are JSON."""
        if self.is_python:
            arguments = python_arguments(arguments)
        return f"{self.before}{name}{self.between}{arguments}{self.after}"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One syntax: a section from `start` to `end` with one or more calls, or a list of them.

    With an empty `start` the section must be at the beginning of an answer. `end` may be missing
    in an answer. `words` are in the chat templates of models with this syntax, all of one group,
    and the words of `without` are not.
    `leads` begin a section whose `start` was left out. `bare`: the section counts only if it
    ends an answer that was not cut, because its text is easily something else. `channels`: an
    answer has the messages of OpenAI's Harmony format. `call_template` is what a grammar can
    enforce, `history_template` how calls are written for a chat template that writes none.
    """

    name: str
    start: str
    end: str
    forms: Sequence[CallForm]
    words: Sequence[Sequence[str]] = ()
    without: Sequence[str] = ()
    leads: Sequence[str] = ()
    call_template: CallTemplate | None = None
    history_template: CallTemplate | None = None
    bare: bool = False
    channels: bool = False

    def is_told_by(self, template: str) -> bool:
        """Whether a chat template has the words of this syntax."""
        told = any(all(word in template for word in group) for group in self.words)
        return told and not any(word in template for word in self.without)

    @property
    def has_json_arguments(self) -> bool:
        """Whether a call's arguments are JSON, so that a schema can constrain them."""
        return any(isinstance(form, (JsonObjects, NamedJson)) for form in self.forms)

    @property
    def has_text_arguments(self) -> bool:
        """Whether models of the family write a call's arguments as text that is no JSON."""
        texts = (TaggedArguments, LiteralArguments)
        return self.call_template is None and any(isinstance(f, texts) for f in self.forms)


def python_arguments(arguments: str) -> str:
    """JSON arguments as those of a call in Python; unchanged if they are no object."""
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(values, dict):
        return arguments
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def footer_of(syntax: CallSyntax) -> str:
    """What ends the calls of a syntax whose sections have no end marker; may be empty."""
    footers = (getattr(form, "footer", "") for form in syntax.forms)
    return next(filter(None, footers), "")


def texts_of(syntax: CallSyntax) -> list[str]:
    """The texts of a syntax and its forms."""
    return [syntax.start, syntax.end, *strings_in([dataclasses.astuple(f) for f in syntax.forms])]


def strings_in(value: object) -> Iterator[str]:
    """The strings of a value of nested sequences."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings_in(each)
