"""Errors in a request: the client's fault, not the device's."""

from __future__ import annotations

from protocol.error_codes import ErrorCode
from protocol.events import Rejected, TooLong
from protocol.messages import ChatPrompt, Submit


class PromptError(Exception):
    """A prompt or a parameter that this model cannot serve; `param` names the parameter."""

    def __init__(
        self, code: ErrorCode, message: str, param: str, *, too_long: TooLong | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.too_long = too_long

    def to_rejected(self, id: int) -> Rejected:
        """The rejection of the request with this id."""
        return Rejected(id, self.code, self.message, self.param, self.too_long)


def context_length_exceeded(
    submit: Submit, prompt_tokens: int, limit_tokens: int, limit: str, *, at_least: bool = False
) -> PromptError:
    """The error for a prompt and an answer that exceed a limit; `limit` is it as a main clause.

    With `at_least` the prompt may have more tokens.
    """
    tokens = f"at least {prompt_tokens}" if at_least else str(prompt_tokens)
    if submit.max_tokens is None or (submit.ceiling and submit.max_tokens):
        answer_tokens = max(submit.sampling.min_tokens, 1)
        answer = f"at least {answer_tokens}"
    else:
        answer_tokens = submit.max_tokens
        answer = str(answer_tokens)
    message = f"{limit}, but the request has {tokens} in the prompt and {answer} in the answer."
    param = "messages" if isinstance(submit.prompt, ChatPrompt) else "prompt"
    too_long = TooLong(prompt_tokens, answer_tokens, limit_tokens)
    return PromptError("context_length_exceeded", message, param, too_long=too_long)
