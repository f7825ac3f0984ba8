"""The grammar of arguments that are literals, as in Python or in Gemma's notation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.call_grammars.argument_schemas import Arguments
from worker.call_grammars.lark_text import FREE_TEXT, SPACE, SpecialTokens, any_of, to_pattern
from worker.call_grammars.tagged_rules import SCALARS
from worker.call_readers.declared_tools import resolve
from worker.call_readers.literal_calls import LiteralArguments

MAX_DEPTH = 6
BARE_KEY = r"/[\w.:-]{1,64}/"
WORDS = {"boolean": '("True" | "False" | "true" | "false")', "null": '("None" | "null")'}
ESCAPED_STRINGS = r"""/"([^"\\\n\r]|\\.)*"|'([^'\\\n\r]|\\.)*'/"""


class LiteralRules:
    """Makes rules of one form's arguments; `rule` begins the names of those that are shared."""

    def __init__(self, form: LiteralArguments, special_tokens: SpecialTokens, rule: str) -> None:
        self._form = form
        self._tokens = special_tokens
        self._any, self._string = f"{rule}_any", f"{rule}_string"
        self._number = 0
        self._made: list[str] = []

    def take(self) -> list[str]:
        """The rules that all calls share."""
        notation = self._form.notation
        key = self._string if notation.escapes else BARE_KEY
        item = f'{self._any} ({SPACE} "," {SPACE} {self._any})*'
        pair = f'{key} {SPACE} ":" {SPACE} {self._any}'
        pairs = f'{pair} ({SPACE} "," {SPACE} {pair})*'
        choices = [self._string, SCALARS["number"], *WORDS.values()]
        choices += [f'"[" {SPACE} ({item} {SPACE})? "]"', f'"{{" {SPACE} ({pairs} {SPACE})? "}}"']
        return [f"{self._any}: {any_of(choices)}", *self._strings()]

    def make(self, rule: str, arguments: Arguments) -> list[str]:
        """The Lark rule `rule` and others: the arguments, and what ends the call."""
        self._made = []
        end = json.dumps(self._form.end)
        if arguments.is_open:
            pair = f"{BARE_KEY} {json.dumps(self._form.notation.assign)} {self._any}"
            pairs = f'({pair} ({SPACE} "," {SPACE} {pair})* {SPACE})?'
        else:
            pairs = self._pairs(arguments.root, arguments.root, self._form.notation.assign)
        return [f"{rule}: {SPACE} {pairs} {SPACE} {end}", *self._made]

    def _pairs(
        self, schema: Mapping[str, Any], root: Mapping[str, Any], assign: str, depth: int = 0
    ) -> str:
        """The name of a rule: the properties of a schema, in their order."""
        properties = schema["properties"]
        required = schema.get("required") or ()
        rule = f"{self._any}_{self._number}"
        self._number += 1
        last = len(properties)
        for index, (key, value) in enumerate(properties.items()):
            begun = key if assign == "=" or not self._form.notation.escapes else json.dumps(key)
            pair = f"{json.dumps(begun + assign)} {SPACE} {self._value(value, root, depth + 1)}"
            first, more = (
                [f"{pair} {rule}_r{index + 1}"],
                [f'{SPACE} "," {SPACE} {pair} {rule}_r{index + 1}'],
            )
            if key not in required:
                first.append(f"{rule}_f{index + 1}")
                more.append(f"{rule}_r{index + 1}")
            self._made.append(f"{rule}_f{index}: {any_of(first)}")
            self._made.append(f"{rule}_r{index}: {any_of(more)}")
        self._made += [f'{rule}_f{last}: ""', f'{rule}_r{last}: ""']
        return f"{rule}_f0"

    def _value(self, schema: Any, root: Mapping[str, Any], depth: int) -> str:
        if isinstance(schema, dict) and "$ref" in schema:
            schema = resolve(schema["$ref"], root)
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return self._any
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            return any_of(self._literal(value) for value in values)
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list):
                return any_of(self._value(each, root, depth + 1) for each in schema[keyword])
        types = schema.get("type")
        types = types if isinstance(types, list) else [types]
        return any_of(self._typed(each, schema, root, depth) for each in types)

    def _typed(
        self, kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int
    ) -> str:
        """A value of one type of the schema."""
        match kind:
            case "string":
                return self._string
            case "boolean" | "null":
                return WORDS[kind]
            case "integer" | "number":
                return SCALARS[kind]
            case "array":
                item = self._value(schema.get("items"), root, depth + 1)
                return f'("[" {SPACE} ({item} ({SPACE} "," {SPACE} {item})* {SPACE})? "]")'
            case "object" if isinstance(schema.get("properties"), dict):
                pairs = self._pairs(schema, root, ":", depth)
                return f'("{{" {SPACE} {pairs} {SPACE} "}}")'
            case _:
                return self._any

    def _literal(self, value: Any) -> str:
        """One value of a list."""
        if not isinstance(value, str):
            return any_of({json.dumps(json.dumps(value)): 0, json.dumps(repr(value)): 0})
        if self._form.notation.escapes:
            return any_of({json.dumps(json.dumps(value)): 0, json.dumps(repr(value)): 0})
        return any_of(
            f"{self._quote(quote)} {json.dumps(value)} {self._quote(quote)}" if value
            else f"{self._quote(quote)} {self._quote(quote)}"
            for quote in self._quotes()
        )  # fmt: skip

    def _strings(self) -> list[str]:
        """The rules of a string."""
        if self._form.notation.escapes:
            return [f"{self._string}: {ESCAPED_STRINGS}"]
        choices, rules = [], []
        for index, quote in enumerate(self._quotes()):
            token, rule = self._tokens.get(quote), f"{self._string}_{index}"
            choices.append(rule)
            if token is not None:
                choices.append(f"<[{token}]> {FREE_TEXT} <[{token}]>")
            pattern = to_pattern(quote)
            rules.append(f"{rule}[lazy]: /{pattern}(.|\\n)*{pattern}/")
        return [f"{self._string}: {any_of(choices)}", *rules]

    def _quotes(self) -> list[str]:
        """The marks around strings: those that are tokens, or all."""
        quotes = list(self._form.notation.quotes)
        return [quote for quote in quotes if quote in self._tokens] or quotes

    def _quote(self, quote: str) -> str:
        token = self._tokens.get(quote)
        return json.dumps(quote) if token is None else f"(<[{token}]> | {json.dumps(quote)})"
