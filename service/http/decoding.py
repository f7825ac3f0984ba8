"""Decodes a body to a typed request, or raises `InvalidRequest` and nothing else.

msgspec raises errors of four kinds (two of them are not its own classes). Their text may
quote the client at any length, and ends with the path. A path is therefore parsed from the
end only, and the name of an unknown field is taken from the document, never from the text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import inspect

from service.errors import InvalidRequest, excerpt
from service.schema.depth import MAX_DEPTH, deeper_than, free_form_fields

logger = logging.getLogger(__name__)

MAX_WARNINGS = 16

UnknownFields = Literal["refuse", "warn"]
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
UNKNOWN_FIELD = "Object contains unknown field"

PATH_AT_END = re.compile(
    r"(?P<text>.*) - at `(?:key` in `)?\$(?P<path>(?:\.\w+|\[\d+\]|\[\.\.\.\])*)`", re.DOTALL
)
MISSING = re.compile(r"Object missing required field `(\w+)`")
CODES = [
    (re.compile(r"Expected `int` >=? .*"), "integer_below_min_value"),
    (re.compile(r"Expected `int` <=? .*"), "integer_above_max_value"),
    (re.compile(r"Expected `float` >=? .*"), "decimal_below_min_value"),
    (re.compile(r"Expected `float` <=? .*"), "decimal_above_max_value"),
    (re.compile(r"Expected `str` of length >= .*"), "string_below_min_length"),
    (re.compile(r"Expected `str` of length <= .*"), "string_above_max_length"),
    (re.compile(r"Expected `array` of length >= .*"), "array_below_min_length"),
    (re.compile(r"Expected `array` of length <= .*"), "array_above_max_length"),
    (re.compile(r"Expected `object` of length .*"), "invalid_value"),
    (re.compile(r"Expected `str` matching regex .*"), "invalid_value"),
    (re.compile(r"Expected `.*"), "invalid_type"),
]


class RequestBody(Protocol):
    """A struct with rules beyond its types."""

    def check(self) -> None:
        """Raise `InvalidRequest` if a rule is broken."""


Body = TypeVar("Body", bound=RequestBody)


def decode_body(
    body: bytes, decoder: msgspec.json.Decoder[Body], unknown_fields: UnknownFields = "refuse"
) -> Body:
    """The valid request in `body`.

    Raises:
        InvalidRequest: the body is invalid; the error names the parameter if there is one.
    """
    try:
        request = decoder.decode(body)
    except UNREADABLE as error:
        if not str(error).startswith(UNKNOWN_FIELD):
            raise explain(error) from None
        request = _decode_unknown(body, decoder, unknown_fields)
    _check_depth(request)
    request.check()
    return request


def explain(error: Exception) -> InvalidRequest:
    """Convert an error of msgspec to OpenAI's message, param and code."""
    match error:
        case UnicodeDecodeError():
            return InvalidRequest("The body is not valid UTF-8.")
        case RecursionError():
            return InvalidRequest("The body is nested too deeply.")
        case msgspec.ValidationError():
            return _explain_value(str(error))
        case _:
            return InvalidRequest(f"The body is not valid JSON: {_syntax(str(error))}.")


def _explain_value(message: str) -> InvalidRequest:
    match = PATH_AT_END.fullmatch(message)
    text, path = (match["text"], match["path"]) if match else (message, "")
    param = path.partition("[...]")[0].removeprefix(".")
    if missing := MISSING.fullmatch(text):
        child = f"{param}.{missing[1]}".removeprefix(".")
        return InvalidRequest(
            f"Missing required parameter: `{child}`.",
            param=child,
            code="missing_required_parameter",
        )
    code = next((code for kind, code in CODES if kind.fullmatch(text)), "invalid_value")
    where = f"`{param}`" if param else "The body"
    return InvalidRequest(f"{where}: {_lower(text)}.", param=param or None, code=code)


def _syntax(text: str) -> str:
    """The syntax error in words. msgspec reports a lone surrogate as truncation, too."""
    if text == "Input data was truncated":
        return "it ends too early or contains half a surrogate pair"
    return text.removeprefix("JSON is malformed: ")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# ---------------------------------------------------------------- unknown fields


def _decode_unknown(
    body: bytes, decoder: msgspec.json.Decoder[Body], unknown_fields: UnknownFields
) -> Body:
    """Decode a body with unknown fields again: refuse the first one, or drop all of them."""
    try:
        document = msgspec.json.decode(body)
        names = _drop_unknown(document, inspect.type_info(decoder.type), "")
        if unknown_fields == "refuse":
            raise _unknown_parameter(next(names, None))
        _log_ignored(names)
        return msgspec.convert(document, decoder.type)
    except UNREADABLE as error:
        raise explain(error) from None


def _unknown_parameter(name: str | None) -> InvalidRequest:
    """The error for an unknown field.

    `name` is None if the field is in an earlier value of a repeated key: the decoded document
    has only the last one.
    """
    message = f"Unknown parameter: `{excerpt(name, 100)}`." if name else "Unknown parameter."
    return InvalidRequest(message, param=name, code="unknown_parameter")


def _log_ignored(names: Iterable[str]) -> None:
    """Log each unknown field once, even if many elements of a list have it."""
    distinct = dict.fromkeys(re.sub(r"\[\d+\]", "[]", name) for name in names)
    for name in list(distinct)[:MAX_WARNINGS]:
        logger.warning("Ignored the unknown parameter %s", excerpt(name, 100))
    if len(distinct) > MAX_WARNINGS:
        logger.warning("Ignored %d more unknown parameters", len(distinct) - MAX_WARNINGS)


def _drop_unknown(value: Any, shape: inspect.Type, path: str) -> Iterator[str]:
    """Delete the fields of `value` that `shape` lacks; yield their names: `messages[0].extra`."""
    match shape:
        case inspect.StructType(forbid_unknown_fields=True) if isinstance(value, dict):
            known = {field.encode_name: field.type for field in shape.fields}
            for name in list(value):
                child = f"{path}.{name}" if path else name
                if name in known:
                    yield from _drop_unknown(value[name], known[name], child)
                elif name != shape.tag_field:
                    del value[name]
                    yield child
        case inspect.ListType() if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _drop_unknown(item, shape.item_type, f"{path}[{index}]")
        case inspect.UnionType():
            for member in shape.types:
                if _is_member(value, member):
                    yield from _drop_unknown(value, member, path)


def _is_member(value: Any, shape: inspect.Type) -> bool:
    """Whether `value` is of this type of a union, by its tag or by being a list."""
    match shape:
        case inspect.StructType(tag=None):
            return isinstance(value, dict)
        case inspect.StructType():
            return isinstance(value, dict) and value.get(shape.tag_field) == shape.tag
        case _:
            return isinstance(shape, inspect.ListType) and isinstance(value, list)


# ---------------------------------------------------------------- depth


def _check_depth(request: RequestBody) -> None:
    """Refuse free-form values that are nested too deeply for the code that reads them."""
    for name in free_form_fields(type(request)):
        if deeper_than(MAX_DEPTH, getattr(request, name)):
            raise InvalidRequest(
                f"`{name}` is nested deeper than {MAX_DEPTH} levels.",
                param=name,
                code="invalid_value",
            )
