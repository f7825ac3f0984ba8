"""Errors in a request: the client's fault, not the device's."""

from __future__ import annotations

from protocol.error_codes import ErrorCode
from protocol.messages import ChatPrompt, Submit


class PromptError(Exception):
    """A prompt or a parameter that this model cannot serve; `param` names the parameter."""

    def __init__(self, code: ErrorCode, message: str, param: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def context_length_exceeded(
    submit: Submit, prompt_tokens: int, limit: str, *, at_least: bool = False
) -> PromptError:
    """The error for a prompt and an answer that exceed `limit`, a main clause with the number.

    With `at_least` the prompt may have more tokens.
    """
    tokens = f"at least {prompt_tokens}" if at_least else str(prompt_tokens)
    message = f"{limit}, but the request has {tokens} in the prompt and {_answer(submit)}."
    param = "messages" if isinstance(submit.prompt, ChatPrompt) else "prompt"
    return PromptError("context_length_exceeded", message, param)


def _answer(submit: Submit) -> str:
    """What the answer needs, in words."""
    if submit.max_tokens is None or (submit.ceiling and submit.max_tokens):
        return f"at least {max(submit.sampling.min_tokens, 1)} in the answer"
    return f"{submit.max_tokens} in the answer"
