"""Decodes a body to a typed request, or raises `InvalidRequest` and nothing else.

msgspec raises errors of four kinds (two of them are not its own classes). Their text may
quote the client at any length, and ends with the path. A path is therefore parsed from the
end only, and the name of an unknown field is taken from the document, never from the text.
Unknown fields are those of `service.http.unknown_fields`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Set as AbstractSet
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from protocol.json_values import MAX_DEPTH, deeper_than
from service.errors import InvalidRequest, excerpt
from service.http.unknown_fields import UnknownFields, drop_unknown_fields
from service.schema.annotations import TEXT_ONLY
from service.schema.depth import free_form_fields, list_free_form
from service.schema.parameter_table import soften_parameters

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# A string that does not end goes to the end of what is searched.
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+'
STRINGS = re.compile(STRING, re.DOTALL)
# It always matches: a search that fails is repeated from each character.
TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb")*+[\[\]{}]?+", re.DOTALL)
# To search this many brackets takes 40 ms.
MAX_SEARCHED_BYTES = 1 << 16
# Nothing is decoded that is nested deeper, as a rule.
DEEPEST = 1000
MAX_SHOWN_NAME_CHARS = 100
UNKNOWN_FIELD = "Object contains unknown field"

PATH_AT_END = re.compile(
    r"(?P<text>.*) - at `(?:key` in `)?\$(?P<path>(?:\.\w+|\[\d+\]|\[\.\.\.\])*)`", re.DOTALL
)
# What the value of a type may only be, by the path of the field.
ONLY_TYPES = [
    (
        re.compile(
            r"((messages|input|items)\[\d+\]\.(content|output)\[\d+\]|system\[\d+\])"
            r"(\.content\[\d+\])?(\.source)?\.(type|media_type)"
        ),
        TEXT_ONLY,
    ),
    (
        re.compile(r"tools\[\d+\](\.tools\[\d+\])?\.type"),
        "only tools that the client runs are supported, with a schema of their input",
    ),
    (
        re.compile(r"tools\[\d+\](\.tools\[\d+\])?\.format\.type"),
        "only text is supported: there are no grammars for the input of custom tools",
    ),
]
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


class DecodingRules(NamedTuple):
    """The settings for unknown fields, and the parameters that the operator has softened."""

    unknown_fields: UnknownFields = "messages"
    softened: AbstractSet[str] = frozenset()


class Decoded(NamedTuple, Generic[Body]):
    """A valid request, and the paths of its fields that are ignored."""

    request: Body
    ignored: list[str]


def decode_body(
    body: bytes | bytearray,
    decoder: msgspec.json.Decoder[Body],
    rules: DecodingRules = DecodingRules(),  # noqa: B008 (immutable)
) -> Decoded[Body]:
    """The valid request in `body`.

    Raises:
        InvalidRequest: the body is invalid; the error names the parameter if there is one.
    """
    request, ignored = _decode(body, decoder, rules.unknown_fields)
    _check_depth(request)
    if rules.softened:
        request, softened = soften_parameters(request, rules.softened)
        ignored += softened
    request.check()
    return Decoded(request, ignored)


def _decode(
    body: bytes | bytearray, decoder: msgspec.json.Decoder[Body], unknown_fields: UnknownFields
) -> tuple[Body, list[str]]:
    """Decode a body; one with unknown fields is decoded again, without them.

    So is one of a type that completes documents: it adds what a request may leave out.
    """
    complete = getattr(decoder.type, "complete", None)
    try:
        return decoder.decode(body), []
    except UNREADABLE as error:
        is_readable = complete is not None and isinstance(error, msgspec.ValidationError)
        if not (is_readable or str(error).startswith(UNKNOWN_FIELD)):
            raise explain(error, body) from None
    document = _decode_document(body)
    try:
        if complete is not None:
            complete(document)
        ignored = drop_unknown_fields(document, decoder.type, unknown_fields)
        return msgspec.convert(document, decoder.type), ignored
    except UNREADABLE as error:
        raise explain(error, body) from None


def _decode_document(body: bytes | bytearray) -> Any:
    """Decode a body whatever its fields are.

    Raises:
        InvalidRequest: the body is invalid; the error names the field that is.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:
        # As of a number out of range. Without a type the path in the error has no names.
        text = PATH_AT_END.sub(r"\g<text>", str(error))
        name = _find_invalid(body)
        raise _refuse_value(name, text, "invalid_value") from None
    except UNREADABLE as error:
        raise explain(error, body) from None


def _find_invalid(body: bytes | bytearray) -> str | None:
    """The field of a body whose value is none that can be read; None where it is no object."""
    with contextlib.suppress(*UNREADABLE):
        for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
            try:
                msgspec.json.decode(value)
            except msgspec.ValidationError:
                return name
    return None


def explain(error: Exception, body: bytes | bytearray) -> InvalidRequest:
    """Convert an error of msgspec to OpenAI's message, param and code."""
    match error:
        case UnicodeDecodeError():
            return InvalidRequest("The body is not valid UTF-8.")
        case RecursionError():
            name = find_deepest(body)
            return (
                InvalidRequest("The body is nested too deeply.")
                if name is None
                else _refuse_depth(name)
            )
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
    only = next((words for path, words in ONLY_TYPES if path.fullmatch(param)), None)
    if code == "invalid_value" and only is not None:
        return _refuse_value(param, f"{only}; {_lower(text)}", code)
    return _refuse_value(param or None, text, code)


def _refuse_value(param: str | None, text: str, code: str) -> InvalidRequest:
    where = "The body" if param is None else f"`{param}`"
    return InvalidRequest(f"{where}: {_lower(text)}.", param=param, code=code)


def _syntax(text: str) -> str:
    """The syntax error in words. msgspec reports a lone surrogate as truncation, too."""
    if text == "Input data was truncated":
        return "it ends too early or contains half a surrogate pair"
    return text.removeprefix("JSON is malformed: ")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# ---------------------------------------------------------------- depth


def _check_depth(request: RequestBody) -> None:
    """Refuse free-form values that are nested too deeply for the code that reads them."""
    for name in free_form_fields(type(request)):
        if deeper_than(MAX_DEPTH, getattr(request, name), list_free_form):
            raise _refuse_depth(name)


def _refuse_depth(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{excerpt(name, MAX_SHOWN_NAME_CHARS)}` is nested deeper than {MAX_DEPTH} levels.",
        param=name,
        code="invalid_value",
    )


def find_deepest(body: bytes | bytearray) -> str | None:
    """The field of a body that is nested deepest, as far as the body is JSON.

    msgspec (0.22) does not say which field it is. None if none of the first `MAX_SEARCHED_BYTES`
    is too deep for a free-form value, and if the body is no object.
    """
    depth, deepest = 0, MAX_DEPTH
    before = found = b""
    for match in TO_BRACKET.finditer(body, 0, MAX_SEARCHED_BYTES):
        if not match[0].endswith((b"[", b"{")):
            depth -= 1
            continue
        if depth == 0 and match[0].endswith(b"["):
            return None
        if depth == 1:
            before = match[0]
        depth += 1
        if depth > deepest:
            deepest, found = depth, before
        if depth > DEEPEST:
            break
    return _last_text(found)


def _last_text(json: bytes) -> str | None:
    texts = STRINGS.findall(json)
    with contextlib.suppress(*UNREADABLE):
        return msgspec.json.decode(texts[-1], type=str) if texts else None
    return None
