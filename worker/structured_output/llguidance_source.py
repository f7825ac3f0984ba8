"""Converts a request's grammar to the grammar text that llguidance compiles."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from protocol.grammars import JSON_STYLE, JsonObject, JsonSchema, Lark, Regex, TextChoice
from worker.structured_output.answer_grammar import AnswerGrammar, AnyGrammar
from worker.structured_output.constraint import GrammarError

# A schema with a keyword that cannot be enforced is refused, whatever its own "x-guidance" says.
JSON_RULES = {"lenient": False, "coerce_one_of": False}
# Where text that is ignored is also part of a rule, llguidance (1.9.1) may find that only more of
# it can follow, and writes it ahead without end. The last such line of a grammar counts.
NOTHING_AHEAD = '\n%llguidance {"no_forcing": true}\n'


def to_llguidance(grammar: AnyGrammar) -> str:
    """Convert the grammar to llguidance's format; only the compiler fully validates it.

    Raises:
        GrammarError: the grammar cannot be parsed.
    """
    try:
        match grammar:
            case JsonObject():
                return json_grammar('{"type": "object"}')
            case JsonSchema(schema):
                return json_grammar(schema)
            case Regex(pattern):
                return LLMatcher.grammar_from_regex(pattern)
            case TextChoice(options):
                return LLMatcher.grammar_from_lark(f"start: {' | '.join(map(quote, options))}")
            case Lark(text):
                ahead = NOTHING_AHEAD if "%ignore" in text else ""
                return LLMatcher.grammar_from_lark(any_to_lark(text) + ahead)
            case AnswerGrammar():
                return compose(grammar)
    except GrammarError:
        raise
    except RecursionError as error:
        raise GrammarError("it is nested too deeply") from error
    except Exception as error:
        # The converters raise many types of errors for invalid text.
        raise GrammarError(str(error)) from error


def json_grammar(schema: str) -> str:
    """The grammar of JSON texts that match a JSON schema."""
    return LLMatcher.grammar_from_json_schema(
        schema,
        defaults=JSON_STYLE,  # type: ignore[arg-type]
        overrides=JSON_RULES,  # type: ignore[arg-type]
    )


def compose(grammar: AnswerGrammar) -> str:
    """A grammar of several: each is named, and has rules and white space of its own."""
    parts = {"answer": lark_part(grammar.answer)}
    if grammar.reasoning:
        parts = {"whole": lark_part("start: @reasoning @answer"), **parts}
        parts["reasoning"] = lark_part(grammar.reasoning)
    if grammar.format is not None:
        parts["format"] = to_part(grammar.format)
    named = [{**part, "name": name} for name, part in parts.items()]
    return json.dumps({"grammars": named})


def to_part(grammar: AnyGrammar) -> dict[str, Any]:
    """A client's grammar as one of several."""
    text = to_llguidance(grammar)
    match grammar:
        case Lark() | TextChoice():
            return lark_part(text)
        case _:
            part: dict[str, Any] = json.loads(text)["grammars"][0]
            return part


def lark_part(text: str) -> dict[str, Any]:
    """A grammar in Lark as one of several."""
    return {"lark_grammar": text}


def quote(text: str) -> str:
    """A string literal of llguidance's Lark, which has JSON's syntax."""
    return json.dumps(text, ensure_ascii=False)
