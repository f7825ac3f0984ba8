"""Structured output: OpenAI's `response_format`, and `structured_outputs` with other grammars.

The worker enforces the grammar on every token. A grammar that it cannot enforce gets 400.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from service.errors import InvalidRequest
from service.schema.strict import find_violation

MAX_GRAMMAR_BYTES = 512 * 1024
MAX_CHOICES = 1024
FORMAT = "response_format"
SCHEMA = "response_format.json_schema.schema"

SchemaName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
GrammarText = Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
Option = Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
Options = Annotated[list[Option], Meta(min_length=1, max_length=MAX_CHOICES)]


class SchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema that the answer always conforms to.

    With `strict` the schema must also follow OpenAI's rules for strict schemas.
    """

    name: SchemaName
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """One format of the answer."""


class TextFormat(ResponseFormat, frozen=True, tag="text"):
    """Any text."""


class JsonObjectFormat(ResponseFormat, frozen=True, tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormat(ResponseFormat, frozen=True, tag="json_schema"):
    """JSON that conforms to a schema."""

    json_schema: SchemaFormat


AnyFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of these. Not in OpenAI's API; the names are vLLM's.

    `regex` has the syntax of Rust's regex crate and matches the whole answer, `choice` lists
    the possible answers, `grammar` is in llguidance's Lark syntax or in GBNF.
    """

    regex: GrammarText | None = None
    choice: Options | None = None
    grammar: GrammarText | None = None


def to_grammar(
    response_format: AnyFormat | None, structured_outputs: StructuredOutputs | None
) -> Grammar | None:
    """The grammar that constrains the answer; None for free text."""
    match response_format:
        case JsonObjectFormat():
            return JsonObject()
        case JsonSchemaFormat(schema_format):
            return JsonSchema(msgspec.json.encode(schema_format.schema).decode())
    match structured_outputs:
        case StructuredOutputs(regex=str(pattern)):
            return Regex(pattern)
        case StructuredOutputs(choice=list(options)):
            return TextChoice(options)
        case StructuredOutputs(grammar=str(text)):
            return Lark(text)
    return None


def check_structure(
    response_format: AnyFormat | None, structured_outputs: StructuredOutputs | None
) -> None:
    """Check the rules beyond the types.

    Raises:
        InvalidRequest: a rule is broken; the error names the parameter.
    """
    if isinstance(response_format, JsonSchemaFormat):
        check_schema(response_format.json_schema)
    if structured_outputs is None:
        return
    if len([value for value in msgspec.structs.astuple(structured_outputs) if value]) != 1:
        raise invalid(
            "`structured_outputs` requires exactly one of `regex`, `choice` and `grammar`.",
            "structured_outputs",
        )
    if isinstance(response_format, JsonObjectFormat | JsonSchemaFormat):
        raise invalid(
            "`response_format` and `structured_outputs` cannot be combined: set only one of them.",
            "structured_outputs",
        )
    if sum(map(len, structured_outputs.choice or [])) > MAX_GRAMMAR_BYTES:
        raise invalid(
            f"`structured_outputs.choice` has more than {MAX_GRAMMAR_BYTES} characters.",
            "structured_outputs.choice",
        )


def check_schema(schema_format: SchemaFormat) -> None:
    """Refuse a schema that is too large, or that breaks the strict rules although it is strict.

    Raises:
        InvalidRequest: the schema is invalid; the message has the place in a strict schema.
    """
    if len(msgspec.json.encode(schema_format.schema)) > MAX_GRAMMAR_BYTES:
        raise invalid(f"`{SCHEMA}` is larger than {MAX_GRAMMAR_BYTES} bytes.", SCHEMA)
    if schema_format.strict:
        violation = find_violation(schema_format.schema)
        if violation is not None:
            message = f"Invalid schema for `{FORMAT}` '{schema_format.name}': {violation}."
            raise invalid(message, FORMAT)


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for an invalid parameter."""
    return InvalidRequest(message, param=param, code="invalid_value")
