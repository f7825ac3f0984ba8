"""The one shape of every error body, and of an error inside a stream."""

from __future__ import annotations

import msgspec


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong. `param` is the path of the parameter at fault: `messages[0].role`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"error": {...}}`, as OpenAI's clients read it."""

    error: ErrorDetail
