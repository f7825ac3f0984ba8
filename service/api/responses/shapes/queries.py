"""The query parameters of stored responses and conversations, and their description."""

from __future__ import annotations

from typing import get_args

from starlette.requests import Request

from service.api.responses.shapes.options import Includable
from service.errors import InvalidRequest, excerpt
from service.schema.queries import describe_parameter, read_flag, read_number, read_word
from service.store.pages import DEFAULT_LIMIT, MAX_LIMIT, PageQuery

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
