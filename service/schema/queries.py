"""The parameters of queries: words, numbers and flags, each given once."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from service.errors import InvalidRequest

TRUE_WORDS = ("true", "1")
FALSE_WORDS = ("false", "0")
# Of ASCII's digits alone, and of so few that no conversion of them takes long.
NUMBER = re.compile(r"-?[0-9]{1,20}")


def describe_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A parameter of a query in OpenAPI's words."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


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
