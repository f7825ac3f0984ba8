"""Structured output: OpenAI's `response_format`, and `structured_outputs` with other grammars.

The worker enforces the grammar on every token. A grammar that it cannot enforce gets 400.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from protocol.json_values import MAX_DEPTH, deeper_than
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
    """Any JSON object, or with `schema` (llama.cpp's) JSON that conforms to it."""

    schema: dict[str, Any] | None = None


class JsonSchemaFormat(ResponseFormat, frozen=True, tag="json_schema"):
    """JSON that conforms to a schema."""

    json_schema: SchemaFormat


AnyFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of these. Not in OpenAI's API; the names are vLLM's.

    `json` is a JSON schema, or the text of one; with `json_object` the answer is any JSON object.
    `regex` has the syntax of Rust's regex crate and matches the whole answer, `choice` lists
    the possible answers, `grammar` is in llguidance's Lark syntax or in GBNF.
    """

    json: dict[str, Any] | GrammarText | None = None
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: Options | None = None
    grammar: GrammarText | None = None


def to_grammar(
    response_format: AnyFormat | None, structured_outputs: StructuredOutputs | None
) -> Grammar | None:
    """The grammar that constrains the answer; None for free text."""
    match response_format:
        case JsonObjectFormat(None):
            return JsonObject()
        case JsonObjectFormat(dict(schema)):
            return schema_grammar(schema)
        case JsonSchemaFormat(schema_format):
            return schema_grammar(schema_format.schema)
    match structured_outputs:
        case StructuredOutputs(json=dict() | str() as json_schema):
            return schema_grammar(json_schema)
        case StructuredOutputs(json_object=True):
            return JsonObject()
        case StructuredOutputs(regex=str(pattern)):
            return Regex(pattern)
        case StructuredOutputs(choice=list(options)):
            return TextChoice(options)
        case StructuredOutputs(grammar=str(text)):
            return Lark(text)
    return None


def schema_grammar(schema: dict[str, Any] | str) -> JsonSchema:
    """The grammar of a JSON schema, or of the text of one."""
    return JsonSchema(schema if isinstance(schema, str) else msgspec.json.encode(schema).decode())


def check_structure(
    response_format: AnyFormat | None, structured_outputs: StructuredOutputs | None
) -> None:
    """Check the rules beyond the types.

    Raises:
        InvalidRequest: a rule is broken; the error names the parameter.
    """
    if isinstance(response_format, JsonSchemaFormat):
        check_schema(response_format.json_schema)
    if isinstance(response_format, JsonObjectFormat) and response_format.schema is not None:
        check_schema_size(response_format.schema, f"{FORMAT}.schema")
    if structured_outputs is None:
        return
    check_one_is_set(structured_outputs)
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


def check_one_is_set(structured_outputs: StructuredOutputs) -> None:
    """Check that exactly one kind of grammar is given, and that a text of a schema is JSON.

    Raises:
        InvalidRequest: none or several are given, or the schema is invalid.
    """
    given = {
        name: value
        for name, value in msgspec.structs.asdict(structured_outputs).items()
        if value not in (None, False, [])
    }
    if len(given) != 1:
        names = ", ".join(f"`{name}`" for name in StructuredOutputs.__struct_fields__)
        raise invalid(
            f"`structured_outputs` requires exactly one of {names}.", "structured_outputs"
        )
    schema = given.get("json")
    if isinstance(schema, str):
        schema = parse_schema(schema)
    if schema is not None:
        check_schema_size(schema, "structured_outputs.json")


def parse_schema(text: str) -> dict[str, Any]:
    """The JSON schema in `text`.

    Raises:
        InvalidRequest: it is not a JSON object, or nested too deeply.
    """
    param = "structured_outputs.json"
    try:
        schema = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise invalid(f"`{param}` is not a JSON schema.", param) from None
    if deeper_than(MAX_DEPTH, schema):
        raise invalid(f"`{param}` is nested deeper than {MAX_DEPTH} levels.", param)
    return schema


def check_schema_size(schema: dict[str, Any], param: str) -> None:
    """Refuse a schema that is too large.

    Raises:
        InvalidRequest: it has more than `MAX_GRAMMAR_BYTES` bytes.
    """
    if len(msgspec.json.encode(schema)) > MAX_GRAMMAR_BYTES:
        raise invalid(f"`{param}` is larger than {MAX_GRAMMAR_BYTES} bytes.", param)


def check_schema(schema_format: SchemaFormat) -> None:
    """Refuse a schema that is too large, or that breaks the strict rules although it is strict.

    Raises:
        InvalidRequest: the schema is invalid; the message has the place in a strict schema.
    """
    check_schema_size(schema_format.schema, SCHEMA)
    if schema_format.strict:
        violation = find_violation(schema_format.schema)
        if violation is not None:
            message = f"Invalid schema for `{FORMAT}` '{schema_format.name}': {violation}."
            raise invalid(message, FORMAT)


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for an invalid parameter."""
    return InvalidRequest(message, param=param, code="invalid_value")
