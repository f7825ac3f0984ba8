"""What a request asks for, as the grammar text that llguidance compiles."""

from __future__ import annotations

import json

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from worker.structured_output.constraint import GrammarError

# White space only where it is no loop to fall into: weak models write it for ever. One blank
# after a separator stays, because most models have learned JSON so. A schema's own
# "x-guidance" may ask for another style.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
# What cannot be held to is refused, whatever the schema asks: nothing is ever left out.
JSON_RULES = {"lenient": False, "coerce_one_of": False}


def to_llguidance(grammar: Grammar) -> str:
    """The grammar in llguidance's own terms; whether it is one is found in compiling it.

    Raises:
        GrammarError: it cannot even be read.
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
                return LLMatcher.grammar_from_lark(any_to_lark(text))
    except RecursionError as error:
        raise GrammarError("it is nested too deeply") from error
    except Exception as error:
        # The converters tell bad text by all kinds of errors.
        raise GrammarError(str(error)) from error


def json_grammar(schema: str) -> str:
    """The grammar of JSON texts that a schema allows."""
    return LLMatcher.grammar_from_json_schema(
        schema,
        defaults=JSON_STYLE,  # type: ignore[arg-type]
        overrides=JSON_RULES,  # type: ignore[arg-type]
    )


def quote(text: str) -> str:
    """`text` as a string of llguidance's Lark, whose strings are JSON's."""
    return json.dumps(text, ensure_ascii=False)
