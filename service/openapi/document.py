"""GET /openapi.json: the API's description, made from the route table and the schema structs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from service.errors import ErrorBody
from service.openapi.descriptions import content_of, describe_read
from service.openapi.operation import Json, Operation, Struct

DESCRIPTION_PATH = "/openapi.json"
OPEN_FIELDS = ("messages", "input")
PATH_NAME = re.compile(r"{(\w+)}")
# What names a stored object in a path.
STORED_NAMES = ("id", "item")
SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer"},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
API_TEXT = (
    "OpenAI's API for text, served from Apple MLX. A path takes GET (and with it HEAD) or POST, as "
    "listed; another method gets 405 with `Allow`, one that is not in upper case 501, and another "
    "path 404, whatever the type of the body. Every POST with a body is declared as "
    "`application/json`, and has no `Content-Encoding` but `identity`; others get 415."
)


def describe_api(version: str, operations: Iterable[Operation]) -> Json:
    """The API as an OpenAPI 3.1 document."""
    operations = list(operations)
    schemas = {schema for op in operations for schema in (op.request, *op.schemas) if schema}
    _, components = msgspec.json.schema_components(
        sorted({*schemas, ErrorBody}, key=lambda schema: schema.__name__),
        ref_template="#/components/schemas/{name}",
    )
    for name in {name for op in operations for name in open_structs(op.request)}:
        # Unknown keys of messages are ignored (setting `unknown_fields`).
        components[name].pop("additionalProperties", None)
    make_types_optional(components, operations)
    paths: Json = {}
    for operation in operations:
        if operation.description is not None:
            path = paths.setdefault(operation.path, {})
            path[operation.method.lower()] = {
                **operation.description,
                **describe_in_words(operation),
                **describe_path(operation),
            }
    document = describe_read("describeApi", "Describe the API.", content_of({"type": "object"}))
    paths[DESCRIPTION_PATH] = {"get": document}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlxd",
            "version": version,
            "description": API_TEXT,
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SECURITY_SCHEMES},
        # A key is required only if keys are configured.
        "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
    }


def open_structs(request: Struct | None) -> Iterator[str]:
    """The names of the structs in a request's messages or items."""
    shape = None if request is None else inspect.type_info(request)
    for field in shape.fields if isinstance(shape, inspect.StructType) else ():
        if field.name in OPEN_FIELDS:
            yield from (struct.__name__ for struct in structs_in(field.type))


def structs_in(shape: inspect.Type) -> Iterator[Struct]:
    """The structs in a type, at any depth."""
    match shape:
        case inspect.StructType():
            yield shape.cls
            for field in shape.fields:
                yield from structs_in(field.type)
        case inspect.ListType():
            yield from structs_in(shape.item_type)
        case inspect.Metadata():
            yield from structs_in(shape.type)
        case inspect.UnionType():
            for member in shape.types:
                yield from structs_in(member)


def make_types_optional(components: Json, operations: Iterable[Operation]) -> None:
    """Let the `type` of structs be absent or null where they say so with `type_may_be`.

    A union with one of them has no discriminator, as each of its objects would need it.
    """
    shapes = [inspect.type_info(op.request) for op in operations if op.request is not None]
    structs = {struct for shape in shapes for struct in structs_in(shape)}
    lenient = {struct.__name__: getattr(struct, "type_may_be", ()) for struct in structs}
    references = set()
    for name, states in lenient.items():
        properties = components[name]["properties"]
        if "absent" in states:
            components[name]["required"].remove("type")
            references.add(f"#/components/schemas/{name}")
        if "null" in states:
            properties["type"] = {"anyOf": [properties["type"], {"type": "null"}]}
    for union in unions_in(components):
        if not references.isdisjoint(union["discriminator"]["mapping"].values()):
            del union["discriminator"]


def unions_in(schema: Any) -> Iterator[Json]:
    """The schemas with a discriminator, at any depth of a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("discriminator"), dict) and "mapping" in schema["discriminator"]:
            yield schema
        for child in list(schema.values()):
            yield from unions_in(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from unions_in(child)


def describe_path(operation: Operation) -> Json:
    """The parameters of a path that names stored objects; others are described by their kind."""
    names = [name for name in PATH_NAME.findall(operation.path) if name in STORED_NAMES]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    known = (operation.description or {}).get("parameters", [])
    return {"parameters": [*parameters, *known]} if parameters else {}


def describe_in_words(operation: Operation) -> Json:
    texts = [text for text in ((operation.description or {}).get("description"),) if text]
    if operation.aliases:
        texts.append(f"Also served as {', '.join(operation.aliases)}.")
    return {"description": " ".join(texts)} if texts else {}
