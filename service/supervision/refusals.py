"""Maps the error codes of the worker to errors of the service, for requests and commands."""

from __future__ import annotations

from typing import get_args

from protocol.error_codes import ErrorCode
from protocol.events import TooLong
from service.errors import (
    ContextTooLong,
    InsufficientMemory,
    InternalError,
    InvalidRequest,
    MlxdError,
    ModelBusy,
    ModelLoadFailed,
)

KNOWN_CODES = frozenset(get_args(ErrorCode))


def error_for_code(
    code: str, message: str, param: str | None = None, too_long: TooLong | None = None
) -> MlxdError:
    """The error for a code of the worker; an unknown code is an internal error."""
    if too_long is not None:
        return ContextTooLong(
            message,
            param=param,
            prompt_tokens=too_long.prompt_tokens,
            answer_tokens=too_long.answer_tokens,
            limit_tokens=too_long.limit_tokens,
        )
    match code:
        case "insufficient_memory":
            return InsufficientMemory(message)
        case "model_busy":
            return ModelBusy(message)
        case "model_load_failed":
            return ModelLoadFailed(message, param=param)
        case "internal_error":
            return InternalError(message)
        case _ if code in KNOWN_CODES:
            return InvalidRequest(message, param=param, code=code)
        case _:
            return InternalError(f"The worker sent an unknown error code: {message}")
