"""One row of the route table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.requests import Request

Json = dict[str, Any]
Struct = type[msgspec.Struct]
RouteKind = Literal["generation", "embedding", "rerank", "tokenization", "other"]


class Operation(NamedTuple):
    """One row of the route table. One without a `description` is not in the document.

    `aliases` are other paths of the same route. Its `kind` decides which limits of keys apply: a
    generation, an embedding and a rerank need a place and tokens, a tokenization needs a place.
    `request` is the struct of its body, and `schemas` are the other structs that its description
    refers to.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    endpoint: Callable[[Request], Awaitable[object]]
    description: Json | None = None
    aliases: tuple[str, ...] = ()
    kind: RouteKind = "other"
    request: Struct | None = None
    schemas: tuple[Struct, ...] = ()

    @property
    def spends_tokens(self) -> bool:
        """Whether the route's model computes, and so spends tokens."""
        return self.kind in ("generation", "embedding", "rerank")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the route takes."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths of the route."""
        return self.path, *self.aliases
