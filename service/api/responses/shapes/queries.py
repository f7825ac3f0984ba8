"""The query parameters of stored responses and conversations, and their description."""

from __future__ import annotations

import re
from typing import Any, get_args

from starlette.requests import Request

from service.api.responses.shapes.options import Includable
from service.errors import InvalidRequest, excerpt
from service.store.pages import DEFAULT_LIMIT, MAX_LIMIT, PageQuery

TRUE_WORDS = ("true", "1")
FALSE_WORDS = ("false", "0")
# Of ASCII's digits alone, and of so few that no conversion of them takes long.
NUMBER = re.compile(r"-?[0-9]{1,20}")


def describe_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A parameter of a query in OpenAPI's words."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


INCLUDE = describe_parameter(
    "include",
    "What items have besides; also as `include[]`.",
    type="array",
    items={"enum": list(get_args(Includable))},
)
PAGE = [
    describe_parameter(
        "limit",
        "The most items.",
        type="integer",
        minimum=1,
        maximum=MAX_LIMIT,
        default=DEFAULT_LIMIT,
    ),
    describe_parameter("order", "The order of the items.", enum=["asc", "desc"], default="desc"),
    describe_parameter("after", "The id of the item before the first one.", type="string"),
    INCLUDE,
]
RETRIEVAL = [
    INCLUDE,
    describe_parameter("stream", "Whether events are read.", type="boolean", default=False),
    describe_parameter(
        "starting_after",
        "With `stream`: the number of the event before the first one.",
        type="integer",
        minimum=-1,
    ),
    describe_parameter("include_obfuscation", "Not supported.", enum=[False]),
]


def read_page_query(http_request: Request) -> PageQuery:
    """The page that a request asks for.

    Raises:
        InvalidRequest: `limit` is no number, or `order` neither asc nor desc.
    """
    limit = read_number(http_request, "limit", DEFAULT_LIMIT)
    order = read_word(http_request, "order")
    if order is None:
        order = "desc"
    if order not in ("asc", "desc"):
        message = "`order` must be `asc` or `desc`."
        raise InvalidRequest(message, param="order", code="invalid_value")
    after = read_word(http_request, "after")
    return PageQuery(limit, "asc" if order == "asc" else "desc", after)


def read_include(http_request: Request) -> list[str]:
    """What a query asks to include.

    Raises:
        InvalidRequest: it is nothing that an item may have.
    """
    query = http_request.query_params
    names = query.getlist("include[]") + query.getlist("include")
    for name in names:
        if name not in get_args(Includable):
            message = f"`include`: `{excerpt(name, 100)}` is not known."
            raise InvalidRequest(message, param="include", code="invalid_value")
    return names


def read_stream(http_request: Request) -> bool:
    """Whether a query asks for events.

    Raises:
        InvalidRequest: `stream` or `include_obfuscation` is neither true nor false, events are
            to be obfuscated, or a position is given without events.
    """
    streams = read_flag(http_request, "stream")
    if read_flag(http_request, "include_obfuscation"):
        message = "`include_obfuscation` is not supported by this server."
        raise InvalidRequest(message, param="include_obfuscation", code="unsupported_parameter")
    if not streams and "starting_after" in http_request.query_params:
        message = "`starting_after` is only allowed when `stream` is true."
        raise InvalidRequest(message, param="starting_after", code="invalid_value")
    return streams


def read_flag(http_request: Request, name: str) -> bool:
    """Whether the query's parameter `name` is true; without it false.

    Raises:
        InvalidRequest: it is neither true nor false.
    """
    word = read_word(http_request, name)
    if word is None:
        return False
    word = word.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        message = f"`{name}` must be `true` or `false`."
        raise InvalidRequest(message, param=name, code="invalid_value")
    return word in TRUE_WORDS


def read_number(http_request: Request, name: str, default: int) -> int:
    """The number of this name in the query.

    Raises:
        InvalidRequest: it is no number, or has more than 20 digits.
    """
    word = read_word(http_request, name)
    if word is None:
        return default
    if NUMBER.fullmatch(word) is None:
        message = f"`{name}` is not a number."
        raise InvalidRequest(message, param=name, code="invalid_type")
    return int(word)


def read_word(http_request: Request, name: str) -> str | None:
    """The one value of this name in the query; None without any.

    Raises:
        InvalidRequest: there are several.
    """
    words: list[str] = http_request.query_params.getlist(name)
    if len(words) > 1:
        message = f"`{name}` is given {len(words)} times."
        raise InvalidRequest(message, param=name, code="invalid_value")
    return words[0] if words else None
