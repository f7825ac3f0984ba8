"""From a request's prompt to token ids, and the check that they fit the context.

Runs on the intake thread with a tokenizer of its own, so that a long prompt
stalls no stream. It calls no MLX.
"""

from __future__ import annotations

import json
from typing import Any

from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.messages import ChatPrompt, Prompt, Submit, TextPrompt, TokenPrompt

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
INVALID_VALUE = "invalid_value"


class PromptError(Exception):
    """A prompt that cannot be served: the client's error, with the parameter at fault."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class PromptBuilder:
    """Token ids for one model's prompts."""

    def __init__(
        self, tokenizer: TokenizerWrapper, *, vocabulary_size: int, context_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._context_length = context_length
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        self._knows_developer = isinstance(template, str) and "developer" in template
        # Special tokens that a client writes stay text, so no client closes its own turn.
        # mlx-lm's templates written in Python (template is no string) cannot do this.
        self._options = {"sanitize_control_tokens": True} if isinstance(template, str) else {}

    def build(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, never empty.

        Raises:
            PromptError: the template refuses it, it is empty, or an id is no token.
        """
        match prompt:
            case ChatPrompt(messages):
                tokens, param = self._render(messages), "messages"
            case TextPrompt(text):
                tokens, param = self._encode(text), "prompt"
            case TokenPrompt(ids):
                tokens, param = self._check(ids), "prompt"
        if not tokens:
            raise PromptError(INVALID_VALUE, "The prompt has no tokens.", param)
        return tokens

    def echo(self, prompt: Prompt) -> str:
        """The prompt's text, for an answer that begins with it."""
        match prompt:
            case TextPrompt(text):
                return text
            case TokenPrompt(ids):
                return str(self._tokenizer.decode(ids))
            case ChatPrompt():
                return ""

    def limit(self, submit: Submit, prompt_tokens: int) -> int:
        """How many tokens this answer may have, at least 1.

        Raises:
            PromptError: `context_length_exceeded`.
        """
        room = self._context_length - prompt_tokens
        wanted = submit.max_tokens if submit.max_tokens is not None else max(room, 1)
        if wanted > room:
            raise self._too_long(submit, prompt_tokens)
        return wanted

    def _render(self, messages: list[dict[str, Any]]) -> list[int]:
        if not self._tokenizer.has_chat_template:
            message = "This model has no chat template; use /v1/completions."
            raise PromptError(INVALID_VALUE, message, "messages")
        try:
            tokens: list[int] = self._tokenizer.apply_chat_template(
                [self._for_template(message) for message in messages],
                add_generation_prompt=True,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise PromptError(INVALID_VALUE, message, "messages") from error
        return tokens

    def _for_template(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message as templates expect it: roles they know, tool arguments as objects."""
        rendered = dict(message)
        if rendered["role"] == "developer" and not self._knows_developer:
            rendered["role"] = "system"
        if calls := rendered.get("tool_calls"):
            rendered["tool_calls"] = [with_argument_object(call) for call in calls]
        return rendered

    def _encode(self, text: str) -> list[int]:
        bos = self._tokenizer.bos_token
        add_special_tokens = bos is None or not text.startswith(bos)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def _check(self, ids: list[int]) -> list[int]:
        for place, token in enumerate(ids):
            if token >= self._vocabulary_size:
                message = (
                    f"Token id {token} at {place} is outside 0 to {self._vocabulary_size - 1}."
                )
                raise PromptError(INVALID_VALUE, message, "prompt")
        return ids

    def _too_long(self, submit: Submit, prompt_tokens: int) -> PromptError:
        asked = f" and {submit.max_tokens} in the answer" if submit.max_tokens is not None else ""
        message = (
            f"This model's context length is {self._context_length} tokens, but the request "
            f"has {prompt_tokens} in the prompt{asked}."
        )
        param = "messages" if isinstance(submit.prompt, ChatPrompt) else "prompt"
        return PromptError(CONTEXT_LENGTH_EXCEEDED, message, param)


def with_argument_object(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose JSON arguments are an object, as templates expect, where they are one."""
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    function["arguments"] = arguments
    return {**call, "function": function}
