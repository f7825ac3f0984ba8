"""Sections of calls that a grammar enforces, in the syntax of the model's family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker.call_grammars.argument_schemas import Arguments, arguments_schema, named_functions
from worker.call_grammars.lark_text import (
    SPACE,
    SpecialTokens,
    any_of,
    to_exact,
    to_lark,
    to_template,
)
from worker.call_grammars.literal_rules import LiteralRules
from worker.call_grammars.tagged_rules import TaggedRules
from worker.call_readers.json_calls import JsonObjects
from worker.call_readers.literal_calls import LiteralArguments
from worker.call_readers.tagged_calls import TaggedArguments
from worker.tool_calls.syntax import CallForm, CallSyntax, Tool


def make_call_rules(
    tools: Sequence[Tool],
    names: Sequence[str],
    syntax: CallSyntax,
    special_tokens: SpecialTokens,
    *,
    parallel: bool,
) -> list[str]:
    """The Lark rule `calls` and others: a call by the `call_template` of a syntax that has one.

    If `parallel`, several in a row. The arguments keep to their schemas.
    """
    call_template = syntax.call_template
    assert call_template is not None
    start = syntax.start if call_template.before.startswith(syntax.start) else ""
    before = call_template.before.removeprefix(start)
    functions = named_functions(tools, names)
    repeat = ' ("\\n"? "\\n"? call)*' if parallel and call_template.repeatable else ""
    rules = [
        f"calls: call{repeat}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(functions))),
    ]
    for index, function in enumerate(functions):
        header = to_lark(before + function["name"] + call_template.between, special_tokens)
        header = f"{to_exact(start, special_tokens)} {header}"
        footer = to_lark(call_template.after, special_tokens)
        rules.append(f"call_{index}: {header} arguments_{index} {footer}")
        rules.append(f"arguments_{index}: %json {json.dumps(arguments_schema(function))}")
    return rules


def make_section_rules(
    syntax: CallSyntax,
    tools: Sequence[Tool],
    names: Sequence[str],
    special_tokens: SpecialTokens,
    *,
    parallel: bool,
    header: str = "",
    separator: str = SPACE,
) -> list[str]:
    """The Lark rule `calls` and others: a call as the family writes it, whatever its arguments.

    If `parallel`, several, in one section or in sections with the `separator` between them. Each
    section is after a `header`; both are Lark texts.
    """
    functions = named_functions(tools, names)
    calls = SectionCalls(syntax, special_tokens)
    start, end = (to_exact(each, special_tokens) for each in (syntax.start, calls.end))
    opened, closed = ('"["', '"]"') if calls.is_list else ("", "")
    comma = f'"," {SPACE}' if calls.is_list else SPACE
    several = f" ({comma} call)*" if parallel and calls.may_repeat else ""
    again = f" ({separator} section)*" if parallel else ""
    # A start that ends with a tag's name is a part of the first call.
    space = "" if syntax.start.endswith("=") else SPACE
    rules = [
        f"calls: section{again}",
        f"section: {header} {start} {space} {opened} call{several} {closed} {SPACE} {end}",
        "call: " + any_of(f"call_{index}" for index in range(len(functions))),
    ]
    for index, function in enumerate(functions):
        rules += calls.make(f"call_{index}", function)
    return [*rules, *calls.take()]


class SectionCalls:
    """Makes the rules of calls in the sections of one syntax.

    `end` is what is left of the section's end after a call; `may_repeat`: a section may have
    several calls, in a list if `is_list`. If they are not `required`, closing tags may be left out.
    """

    def __init__(
        self,
        syntax: CallSyntax,
        special_tokens: SpecialTokens,
        rule: str = "t",
        *,
        required: bool = True,
    ) -> None:
        self._tokens = special_tokens
        self._form = native_form(syntax)
        footer = getattr(self._form, "footer", "")
        self.end = syntax.end if footer or not isinstance(self._form, TaggedArguments) else ""
        self.is_list = isinstance(self._form, LiteralArguments) and self._form.end == ")"
        self.may_repeat = self.is_list or (bool(footer) and bool(syntax.end))
        foot = footer or syntax.end
        self._arguments: TaggedRules | LiteralRules | None = None
        match self._form:
            case TaggedArguments() as form:
                ends = () if required else tuple(filter(None, dict.fromkeys([foot, syntax.end])))
                self._arguments = TaggedRules(form, foot, special_tokens, rule, ends)
            case LiteralArguments() as form:
                self._arguments = LiteralRules(form, special_tokens, rule)

    def take(self) -> list[str]:
        """The rules that all calls share."""
        return [] if self._arguments is None else self._arguments.take()

    def make(self, rule: str, function: dict[str, Any]) -> list[str]:
        """The Lark rule `rule` and others: a call of the function."""
        name = json.dumps(function["name"])
        if isinstance(self._form, JsonObjects):
            before, after = (
                ('{"', '": ') if self._form.keyed else ('{"name": "', '", "arguments": ')
            )
            schema = json.dumps(arguments_schema(function))
            return [f'{rule}: {json.dumps(before)} {name} {json.dumps(after)} %json {schema} "}}"']
        header = to_template(self._form.headers[0], self._tokens, {"{name}": name})
        return [f"{rule}: {header} {rule}_rest", *self.make_rest(f"{rule}_rest", function)]

    def make_rest(self, rule: str, function: dict[str, Any]) -> list[str]:
        """The Lark rule `rule` and others: what follows the header of a call."""
        if self._arguments is not None:
            return self._arguments.make(rule, Arguments(function))
        schema = json.dumps(arguments_schema(function))
        footer = to_template(getattr(self._form, "footer", ""), self._tokens)
        return [f"{rule}: %json {schema} {footer}"]


def native_form(syntax: CallSyntax) -> CallForm:
    """The form in which models of the family write calls: the first that is not JSON, if any."""
    texts = (f for f in syntax.forms if isinstance(f, (TaggedArguments, LiteralArguments)))
    return next(texts, syntax.forms[0])
