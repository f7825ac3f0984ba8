"""The error codes with which the worker rejects a request or a command."""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "context_length_exceeded",
    "insufficient_memory",
    "internal_error",
    "invalid_grammar",
    "invalid_value",
    "model_busy",
    "model_load_failed",
    "model_not_supported",
    "prompt_too_large",
    "unsupported_parameter",
]
