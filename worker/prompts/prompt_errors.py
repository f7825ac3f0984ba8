"""Why a request cannot be served by this model: the client's error, not the device's."""

from __future__ import annotations

from protocol.error_codes import ErrorCode


class PromptError(Exception):
    """A prompt or a parameter that cannot be served, with the parameter at fault."""

    def __init__(self, code: ErrorCode, message: str, param: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
