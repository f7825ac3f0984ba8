"""Converts a request's prompt to token ids and checks that they fit the context.

Runs on the intake thread with a tokenizer of its own, so that a long prompt delays no
stream. Calls no MLX.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.messages import ChatPrompt, Prompt, Sampling, Submit, TextPrompt, TokenPrompt
from worker.prompts.cache_breakpoints import find_breakpoints
from worker.prompts.fill_in_middle import find_fill_in_middle
from worker.prompts.prompt_errors import PromptError, context_length_exceeded
from worker.prompts.template_variables import RENDER_ERRORS, TemplateVariables
from worker.prompts.token_bound import TokenBound
from worker.tool_calls.prompting import (
    GENERIC_CALL_TEMPLATE,
    render_calls_as_text,
    render_tools_as_text,
)
from worker.tool_calls.syntax import CallTemplate


class PromptBuilder:
    """Converts the prompts of one model to token ids."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        *,
        vocabulary_size: int,
        context_length: int,
        call_template: CallTemplate = GENERIC_CALL_TEMPLATE,
        token_bound: TokenBound | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._token_bound = token_bound
        self._vocabulary_size = vocabulary_size
        self._context_length = context_length
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        self._call_template = call_template
        # A template in Python (not a string) is the family's own and supports tools.
        self._supports_tools = not isinstance(template, str) or "tools" in template
        self._supports_calls = not isinstance(template, str) or "tool_calls" in template
        self._short_call_ids = isinstance(template, str) and "length != 9" in template
        self._supports_developer = isinstance(template, str) and "developer" in template
        # Special tokens in a client's messages stay text, so that a client cannot end its turn.
        # mlx-lm's templates in Python do not support this.
        self._options = {"sanitize_control_tokens": True} if isinstance(template, str) else {}
        self.variables = TemplateVariables(tokenizer)
        self.fill_in_middle = find_fill_in_middle(tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model can render conversations."""
        return bool(self._tokenizer.has_chat_template)

    def build(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, never empty.

        Raises:
            PromptError: the template refuses the messages, the prompt is empty, a token id is
                outside the vocabulary, or the model does not support a suffix.
        """
        match prompt:
            case ChatPrompt():
                tokens, param = self._render(prompt), "messages"
            case TextPrompt(text, suffix):
                tokens = self._build_fill_in_middle(text, suffix) if suffix else self._encode(text)
                param = "prompt"
            case TokenPrompt(ids):
                tokens, param = self._check_ids(ids), "prompt"
        if not tokens:
            raise PromptError("invalid_value", "The prompt has no tokens.", param)
        return tokens

    def echo(self, prompt: Prompt) -> str:
        """The prompt's text, for an answer that repeats it (`echo`); empty for a conversation."""
        match prompt:
            case TextPrompt(text):
                return text
            case TokenPrompt(ids):
                return str(self._tokenizer.decode(ids))
            case ChatPrompt():
                return ""

    def breakpoints(self, prompt: Prompt, tokens: list[int]) -> list[int]:
        """The positions in a prompt's `tokens` at which prefill stops to cache the state."""
        if isinstance(prompt, ChatPrompt):
            return find_breakpoints(self._build_if_possible, prompt, tokens)
        return []

    def ignored(self, prompt: Prompt) -> list[str]:
        """The parameters of a prompt that was built and that this model ignores."""
        return self.variables.ignored(prompt) if isinstance(prompt, ChatPrompt) else []

    def check_length(self, submit: Submit) -> None:
        """Refuse a prompt that is known not to fit, before it is tokenized.

        Raises:
            PromptError: `context_length_exceeded`, or the template refuses the messages.
        """
        bound = self._token_bound
        match submit.prompt:
            case TokenPrompt(ids):
                self.limit(submit, len(ids))
            case TextPrompt(text, suffix) if bound is not None:
                self.limit(submit, bound.at_least(text) + bound.at_least(suffix), at_least=True)
            case ChatPrompt() if bound is not None:
                text = self._apply_template(submit.prompt, tokenize=False)
                self.limit(submit, bound.at_least(text), at_least=True)

    def limit(self, submit: Submit, prompt_tokens: int, *, at_least: bool = False) -> int:
        """The answer's maximum number of tokens: the request's, else what the context allows.

        With `at_least` the prompt may have more tokens.

        Raises:
            PromptError: `context_length_exceeded`, or `min_tokens` is above the limit.
        """
        available = self._context_length - prompt_tokens
        max_tokens = submit.max_tokens if submit.max_tokens is not None else max(available, 1)
        if max_tokens > available:
            # LiteLLM and others recognise the error by these words, which OpenAI uses.
            limit = f"This model's maximum context length is {self._context_length} tokens"
            raise context_length_exceeded(submit, prompt_tokens, limit, at_least=at_least)
        min_tokens = submit.sampling.min_tokens
        if min_tokens > max_tokens:
            message = f"`min_tokens` is {min_tokens}, but the answer may have {max_tokens} tokens."
            raise PromptError("invalid_value", message, "min_tokens")
        return max_tokens

    def check_sampling(self, sampling: Sampling) -> None:
        """Check the token ids in parameters.

        Raises:
            PromptError: an id is outside the vocabulary.
        """
        token_ids = {"logit_bias": sampling.logit_bias, "stop_token_ids": sampling.stop_tokens}
        for param, tokens in token_ids.items():
            for token in tokens:
                if token >= self._vocabulary_size:
                    message = (
                        f"`{param}`: token id {token} is outside this model's vocabulary "
                        f"of {self._vocabulary_size} tokens."
                    )
                    raise PromptError("invalid_value", message, param)

    def _render(self, prompt: ChatPrompt) -> list[int]:
        tokens: list[int] = self._apply_template(prompt, **self._options)
        return tokens

    def _apply_template(self, prompt: ChatPrompt, **settings: bool) -> Any:
        """The token ids of a conversation; with `tokenize` False its text."""
        if not self._tokenizer.has_chat_template:
            message = "This model has no chat template; use /v1/completions."
            raise PromptError("invalid_value", message, "messages")
        messages, tools = prompt.messages, prompt.tools
        if not self._supports_calls:
            messages = render_calls_as_text(messages, self._call_template)
        if not self._supports_tools:
            messages, tools = render_tools_as_text(messages, tools, self._call_template), []
        options = self.variables.options(prompt)
        try:
            return self._tokenizer.apply_chat_template(
                [self._for_template(message) for message in messages],
                tools=tools or None,
                add_generation_prompt=prompt.generation_prompt and not prompt.continue_final,
                **({"continue_final_message": True} if prompt.continue_final else {}),
                **settings,
                **options,
            )
        except RENDER_ERRORS as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise PromptError("invalid_value", message, "messages") from error

    def _for_template(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message as templates expect it: supported roles, tool arguments as objects."""
        rendered = dict(message)
        if rendered["role"] == "developer" and not self._supports_developer:
            rendered["role"] = "system"
        if calls := rendered.get("tool_calls"):
            rendered["tool_calls"] = [with_argument_object(call) for call in calls]
        return with_short_call_ids(rendered) if self._short_call_ids else rendered

    def _build_if_possible(self, prompt: Prompt) -> list[int]:
        try:
            return self.build(prompt)
        except PromptError:
            return []

    def _encode(self, text: str) -> list[int]:
        bos = self._tokenizer.bos_token
        add_special_tokens = bos is None or not text.startswith(bos)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def _build_fill_in_middle(self, text: str, suffix: str) -> list[int]:
        if self.fill_in_middle is None:
            message = (
                "This model has no fill-in-the-middle tokens, so it does not support `suffix`."
            )
            raise PromptError("unsupported_parameter", message, "suffix")
        prefix_ids, suffix_ids = (
            self._tokenizer.encode(part, add_special_tokens=False) for part in (text, suffix)
        )
        # The tokens that this tokenizer puts before every text.
        start_ids = self._tokenizer.encode("")
        return [*start_ids, *self.fill_in_middle.join(prefix_ids, suffix_ids)]

    def _check_ids(self, ids: list[int]) -> list[int]:
        for index, token in enumerate(ids):
            if token >= self._vocabulary_size:
                message = (
                    f"Token id {token} at {index} is outside 0 to {self._vocabulary_size - 1}."
                )
                raise PromptError("invalid_value", message, "prompt")
        return ids


def with_argument_object(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments decoded, as templates expect; unchanged if they are not JSON."""
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    function["arguments"] = arguments
    return {**call, "function": function}


def with_short_call_ids(message: dict[str, Any]) -> dict[str, Any]:
    """The message with call ids of nine letters and digits, which Mistral's templates require."""
    short = dict(message)
    if "tool_call_id" in message:
        short["tool_call_id"] = short_call_id(message["tool_call_id"])
    if calls := message.get("tool_calls"):
        short["tool_calls"] = [{**call, "id": short_call_id(call["id"])} for call in calls]
    return short


def short_call_id(id: str) -> str:
    """A hash of the id in nine hexadecimal digits."""
    return hashlib.sha256(id.encode()).hexdigest()[:9]
