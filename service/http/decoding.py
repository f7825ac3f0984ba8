"""Bytes to a typed request, or `InvalidRequest`: nothing else can come out.

The rules for msgspec's errors: they are of four kinds (two of them not its own),
their text may quote the client at any length, and their path comes last. A path
is therefore read from the end only, and an unknown field is looked up in the
document itself and never in the text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import inspect

from service.errors import InvalidRequest, excerpt
from service.schema.depth import MAX_DEPTH, deeper_than, free_fields

logger = logging.getLogger(__name__)

MAX_WARNINGS = 16

UnknownFields = Literal["refuse", "warn"]
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
UNKNOWN_FIELD = "Object contains unknown field"

PATH_LAST = re.compile(
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
    """A struct that knows rules beyond its types."""

    def check(self) -> None:
        """Raise `InvalidRequest` where one is broken."""


Body = TypeVar("Body", bound=RequestBody)


def decode_body(
    body: bytes, decoder: msgspec.json.Decoder[Body], unknown_fields: UnknownFields = "refuse"
) -> Body:
    """The request in `body`, with all its rules kept.

    Raises:
        InvalidRequest: whatever is wrong, with the parameter at fault where there is one.
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
    """What msgspec found wrong, in OpenAI's terms."""
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
    found = PATH_LAST.fullmatch(message)
    text, path = (found["text"], found["path"]) if found else (message, "")
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
    """msgspec calls a lone surrogate truncation too."""
    if text == "Input data was truncated":
        return "it ends too early, or holds half a surrogate pair"
    return text.removeprefix("JSON is malformed: ")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# ---------------------------------------------------------------- unknown fields


def _decode_unknown(
    body: bytes, decoder: msgspec.json.Decoder[Body], unknown_fields: UnknownFields
) -> Body:
    """Decode once more a body that has unknown fields: refuse the first, or drop them all."""
    try:
        document = msgspec.json.decode(body)
        names = _drop_unknown(document, inspect.type_info(decoder.type), "")
        if unknown_fields == "refuse":
            raise _unknown(next(names, None))
        _warn(names)
        return msgspec.convert(document, decoder.type)
    except UNREADABLE as error:
        raise explain(error) from None


def _unknown(name: str | None) -> InvalidRequest:
    """No name: it stood under a key that the body repeats, and whose last value has none."""
    told = f"Unknown parameter: `{excerpt(name, 100)}`." if name else "Unknown parameter."
    return InvalidRequest(told, param=name, code="unknown_parameter")


def _warn(names: Iterable[str]) -> None:
    """Log each unknown field once, however many elements of a list hold it."""
    distinct = dict.fromkeys(re.sub(r"\[\d+\]", "[]", name) for name in names)
    for name in list(distinct)[:MAX_WARNINGS]:
        logger.warning("Ignored the unknown parameter %s", excerpt(name, 100))
    if len(distinct) > MAX_WARNINGS:
        logger.warning("Ignored %d more unknown parameters", len(distinct) - MAX_WARNINGS)


def _drop_unknown(value: Any, shape: inspect.Type, path: str) -> Iterator[str]:
    """Delete from `value` what `shape` does not know, and name each: `messages[0].extra`."""
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
                if _fits(value, member):
                    yield from _drop_unknown(value, member, path)


def _fits(value: Any, shape: inspect.Type) -> bool:
    """Whether `value` is this member of a union: by its tag, or by being a list."""
    match shape:
        case inspect.StructType(tag=None):
            return isinstance(value, dict)
        case inspect.StructType():
            return isinstance(value, dict) and value.get(shape.tag_field) == shape.tag
        case _:
            return isinstance(shape, inspect.ListType) and isinstance(value, list)


# ---------------------------------------------------------------- depth


def _check_depth(request: RequestBody) -> None:
    """Refuse free-form values nested deeper than what will read them can bear."""
    for name in free_fields(type(request)):
        if deeper_than(MAX_DEPTH, getattr(request, name)):
            raise InvalidRequest(
                f"`{name}` is nested deeper than {MAX_DEPTH} levels.",
                param=name,
                code="invalid_value",
            )
