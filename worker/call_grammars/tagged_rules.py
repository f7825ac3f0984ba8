"""The grammar of arguments that are text between tags.

A value ends where its closing tag is followed by the next key or the end of the call, so a string
may have any tag. Tags may be tokens of the vocabulary, or be spelled. A model that begins a call by
itself may leave out closing tags, as the reader allows: then it ends the call, and is held to
nothing behind it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from protocol.grammars import JSON_STYLE
from worker.call_grammars.argument_schemas import Arguments
from worker.call_grammars.lark_text import (
    FREE_TEXT,
    SPACE,
    SPACE_PATTERN,
    SpecialTokens,
    any_of,
    split_markers,
    to_exact,
    to_pattern,
    to_template,
)
from worker.call_readers.declared_tools import types_of
from worker.call_readers.tagged_calls import TaggedArguments

SCALARS = {
    "integer": r"/-?(0|[1-9][0-9]{0,19})/",
    "number": r"/-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?/",
    "boolean": '("true" | "false")',
    "null": '"null"',
}
PLAIN_KEYS = frozenset({"type", "description", "title", "default", "examples"})
CONTAINERS = frozenset({"array", "object"})
KEY, TOLD = "{key}", ("{string}", "{type}")


class TaggedRules:
    """Makes rules of one form's arguments; `foot` ends a call, `rule` begins all their names.

    With the texts of `open_ends` a call ends whose last closing tag was left out.
    """

    def __init__(
        self,
        form: TaggedArguments,
        foot: str,
        special_tokens: SpecialTokens,
        rule: str,
        open_ends: Sequence[str] = (),
    ) -> None:
        self._form = form
        self._tokens = special_tokens
        self._rule = rule
        before, _, self._after_key = form.key.partition(KEY)
        self._key_start = before.replace("{attributes} ", " ")
        self._foot = foot
        self._open_ends = open_ends
        self._rules: dict[str, str] = {}

    def take(self) -> list[str]:
        """The rules that all calls share."""
        return [f"{name}: {text}" for name, text in self._rules.items()]

    def make(self, rule: str, arguments: Arguments) -> list[str]:
        """The Lark rule `rule` and others: the arguments, and what ends the call."""
        if arguments.is_open:
            return [f"{rule}: {self._text(self._foot_ends())}"]
        keys = list(arguments.properties)
        begins = []
        if keys:
            begins.append(f"{to_exact(self._key_start, self._tokens)} {rule}_k0")
        if arguments.may_end(0):
            begins.append(to_exact(self._foot, self._tokens))
        rules = [f"{rule}: {SPACE} {any_of(begins)}"]
        for index, key in enumerate(keys):
            more = f"{rule}_k{index + 1}" if index + 1 < len(keys) else ""
            done = arguments.may_end(index + 1)
            choices = [
                f"{self._key(key, told)} {self._value(value, key, more, done=done)}"
                for told, value in self._kinds(arguments.properties[key], arguments)
            ]
            if more and key not in arguments.required:
                choices.append(more)
            rules.append(f"{rule}_k{index}: {any_of(choices)}")
        return rules

    def _key(self, key: str, told: str) -> str:
        """A key and what follows it before its value."""
        values = {each: told for each in TOLD if told}
        template = self._after_key.replace("{attributes}", "")
        return f"{json.dumps(key)} {to_template(template, self._tokens, values)}"

    def _kinds(self, schema: Any, arguments: Arguments) -> list[tuple[str, str]]:
        """What the key tells of its value, and the Lark text of the value; "" is any text."""
        types = types_of(schema, arguments.root)
        texts = self._strings(schema, types) if not types or "string" in types else None
        if not any(each in self._form.key for each in TOLD):
            return [("", self._other(schema, types, arguments) if texts is None else texts)]
        word = '"false"' if "{string}" in self._form.key else r"/number|boolean|null|array|object/"
        kinds = []
        if texts is not None:
            kinds.append(('"true"' if "{string}" in self._form.key else '"string"', texts))
        if types != {"string"}:
            kinds.append((word, self._other(schema, types - {"string"}, arguments)))
        return kinds

    def _strings(self, schema: Any, types: set[str]) -> str:
        """The strings that a schema lists; "" if it lists none."""
        values = schema.get("enum") if isinstance(schema, dict) else None
        if types != {"string"} or not values or not all(isinstance(v, str) for v in values):
            return ""
        return any_of(json.dumps(value) for value in values)

    def _other(self, schema: Any, types: set[str], arguments: Arguments) -> str:
        """A value that is no string, as JSON."""
        if self._form.nested and types & CONTAINERS:
            return ""
        if isinstance(schema, dict) and schema.keys() <= PLAIN_KEYS and types <= SCALARS.keys():
            text = any_of(SCALARS[each] for each in sorted(types)) if types else ""
        else:
            text = arguments.json_rule(schema, JSON_STYLE)
        return text

    def _value(self, value: str, key: str, more: str, *, done: bool) -> str:
        """A value with its closing tag, and then more keys (rule `more`), or the call's end."""
        close = self._form.close.replace(KEY, key)
        ends = [(close, self._key_start, more)] if more else []
        if done:
            ends.append((close, self._foot, ""))
        if not value:
            return any_of([self._text(ends), *self._unclosed(close)])
        # Strings of a list, or other values.
        space = to_exact(self._form.padding, self._tokens) if value.startswith('("') else SPACE
        if self._form.cdata:
            value = f'({value} | "<![CDATA[" {value} "]]>")'
        after = any_of(f"{to_exact(text, self._tokens)} {rule}" for _, text, rule in ends)
        closed = to_exact(close, self._tokens)
        if self._open_ends:
            closed = f"({closed})?"
        return f"{space} {value} {space} {closed} {SPACE} {after}"

    def _unclosed(self, close: str) -> list[str]:
        """Any text without its closing tag, up to the end of the call or of its section."""
        without = f"~/(.|\\n)*{to_pattern(close)}(.|\\n)*/"
        choices = []
        for text in self._open_ends:
            if self._begins_with_token(text):
                free = self._terminal(f"{FREE_TEXT} & {without}")
                choices.append(f"{free} {self._by_tokens(text)}")
            choices.append(self._terminal(f"/(.|\\n)*{to_pattern(text)}/ & {without}"))
        return choices

    def _terminal(self, expression: str) -> str:
        """The name of a terminal of expressions with operators."""
        return self._shared(expression, prefix=self._rule.upper())

    def _foot_ends(self) -> list[tuple[str, str, str]]:
        return [("", self._foot, "")]

    def _text(self, ends: Sequence[tuple[str, str, str]]) -> str:
        """Any text up to a closing tag and what must follow it, with the rule after that.

        A text that begins with that of another end would never be seen: it goes on from that one.
        """
        choices = []
        if len(ends) > 1 and ends[1][1].startswith(ends[0][1]):
            [(close, text, more), (_, longer, done)] = ends
            rest = to_exact(longer.removeprefix(text), self._tokens)
            ends = [(close, text, any_of([more, f"{rest} {done}"]))]
        for close, text, rule in ends:
            spelled = f"(.|\\n)*{to_pattern(close)}{SPACE_PATTERN}"
            lazy = self._shared(f"/{spelled}{to_pattern(text)}/", lazy=True)
            choices.append(f"{lazy} {rule}")
            if self._begins_with_token(text):
                before = self._shared(f"/{spelled}/")
                choices.append(f"{before} {self._by_tokens(text)} {rule}")
            if close and self._begins_with_token(close):
                after = to_exact(text, self._tokens)
                choices.append(f"{FREE_TEXT} {self._by_tokens(close)} {SPACE} {after} {rule}")
        return any_of(choices)

    def _shared(self, pattern: str, *, lazy: bool = False, prefix: str = "") -> str:
        """The name of a rule that matches the pattern."""
        for name, text in self._rules.items():
            if text == pattern and name.endswith("[lazy]") == lazy:
                return name.removesuffix("[lazy]")
        name = f"{prefix}_{len(self._rules)}" if prefix else f"{self._rule}_text_{len(self._rules)}"
        self._rules[name + "[lazy]" * lazy] = pattern
        return name

    def _begins_with_token(self, text: str) -> bool:
        pieces = split_markers(text, self._tokens)
        return bool(pieces) and pieces[0] in self._tokens

    def _by_tokens(self, text: str) -> str:
        """A Lark sequence of the text with each marker as its token."""
        pieces = split_markers(text, self._tokens)
        return " ".join(
            f"<[{self._tokens[each]}]>" if each in self._tokens else json.dumps(each)
            for each in pieces
        )
