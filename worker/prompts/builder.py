"""Converts a request's prompt to token ids and checks that they fit the context.

Runs on the intake thread with a tokenizer of its own, so that a long prompt delays no
stream. Calls no MLX.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.messages import ChatPrompt, Prompt, Sampling, Submit, TextPrompt, TokenPrompt
from worker.prompt_errors import PromptError, context_length_exceeded
from worker.prompts.cache_breakpoints import find_breakpoints
from worker.prompts.fill_in_middle import find_fill_in_middle
from worker.prompts.known_texts import KnownTexts
from worker.prompts.message_map import NO_MESSAGES, MessageMap, map_messages, to_tokens
from worker.prompts.token_bound import TokenBound
from worker.prompts.truncation import truncate
from worker.templates.chat_template import ChatTemplate
from worker.templates.message_spans import MessageSpans
from worker.templates.variables import DOCUMENTS, TemplateVariables
from worker.tool_calls.prompting import GENERIC_CALL_TEMPLATE
from worker.tool_calls.syntax import CallTemplate

logger = logging.getLogger(__name__)

# What a truncated conversation leaves for the answer: as much as admission reserves of an answer
# first, or this part of a short context.
TRUNCATION_ROOM_TOKENS = 1024
TRUNCATION_ROOM_PART = 8


@dataclass(frozen=True, slots=True)
class ShortPrompt:
    """A prompt without `dropped_messages`; `tokens` are empty if it is not built yet."""

    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    dropped_messages: int = 0


# An answer is hardly ever longer.
MAX_PREDICTION_CHARS = 1 << 18


class PromptBuilder:
    """Converts the prompts of one model to token ids.

    Of `named_templates` `tool_use` renders the conversations with tools, and `rag` those with
    documents.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        *,
        vocabulary_size: int,
        context_length: int,
        call_template: CallTemplate = GENERIC_CALL_TEMPLATE,
        token_bound: TokenBound | None = None,
        named_templates: Mapping[str, str] | None = None,
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.token_bytes = token_bytes or (lambda token: str(tokenizer.decode([token])).encode())
        self._tokenizer = tokenizer
        self._token_bound = token_bound
        self._vocabulary_size = vocabulary_size
        self._context_length = context_length
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        # Special tokens in a client's messages stay text, so that a client cannot end its turn.
        # mlx-lm's templates in Python do not support this.
        self._options = {"sanitize_control_tokens": True} if isinstance(template, str) else {}
        self._texts = KnownTexts(tokenizer)
        named = named_templates or {}
        variables = TemplateVariables(tokenizer, named.values())
        self.template = ChatTemplate(tokenizer, call_template, variables)
        self._named = {
            name: ChatTemplate(tokenizer, call_template, variables, template=template)
            for name, template in named.items()
        }
        self._spans: dict[int, MessageSpans] = {}
        self.fill_in_middle = find_fill_in_middle(tokenizer)

    @property
    def tokenizer(self) -> TokenizerWrapper:
        """The tokenizer; no other thread uses it."""
        return self._tokenizer

    @property
    def context_length(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self._context_length

    @property
    def largest_id(self) -> int:
        """The largest token id, of the model or of the tokenizer."""
        return max(self._vocabulary_size, len(self._tokenizer)) - 1

    @property
    def has_chat_template(self) -> bool:
        """Whether the model can render conversations."""
        return bool(self._tokenizer.has_chat_template)

    def build(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, never empty.

        Raises:
            PromptError: the template refuses the messages or leaves one out, the prompt is
                empty, a token id is outside the vocabulary, or the model does not support a
                suffix.
        """
        if isinstance(prompt, ChatPrompt):
            self._template_of(prompt).check_whole(prompt)
        return self._build(prompt)

    def shorten(self, prompt: Prompt, room: int = 1) -> ShortPrompt:
        """The prompt; a conversation that may be truncated, so that it leaves room for an answer.

        The room is `room` tokens at least, and so many that the next turn may fit, too. The last
        turn stays, whatever its length.

        Raises:
            PromptError: the template refuses the messages or leaves one out.
        """
        if not isinstance(prompt, ChatPrompt) or not prompt.truncate:
            return ShortPrompt(prompt)
        self._template_of(prompt).check_whole(prompt)
        room = max(room, min(TRUNCATION_ROOM_TOKENS, self._context_length // TRUNCATION_ROOM_PART))
        most = max(self._context_length - room, 0)
        built: dict[int, list[int]] = {}

        def measure(shorter: ChatPrompt) -> int:
            if (least := self._bound_of(shorter)) > most:
                return least
            tokens = built[len(shorter.messages)] = self._render(shorter)
            return len(tokens)

        shorter = truncate(prompt, measure, most)
        kept = len(shorter.messages)
        return ShortPrompt(shorter, built.get(kept, []), len(prompt.messages) - kept)

    def _bound_of(self, prompt: ChatPrompt) -> int:
        """How many tokens a conversation has at least, without their tokenization."""
        return 0 if self._token_bound is None else self._token_bound.at_least(self.render(prompt))

    def _build(self, prompt: Prompt) -> list[int]:
        match prompt:
            case ChatPrompt():
                tokens, param = self._render(prompt), "messages"
            case TextPrompt(text, suffix):
                tokens = self._build_fill_in_middle(text, suffix) if suffix else self.encode(text)
                param = "prompt"
            case TokenPrompt(ids):
                tokens, param = self._check_ids(ids), "prompt"
        if not tokens:
            raise PromptError("invalid_value", "The prompt has no tokens.", param)
        return tokens

    def echo(self, prompt: Prompt, *, skip_special_tokens: bool = False) -> str:
        """The prompt's text, for an answer that repeats it (`echo`); empty for a conversation.

        With `skip_special_tokens` control tokens among a prompt's token ids have no text.
        """
        match prompt:
            case TextPrompt(text):
                return text
            case TokenPrompt(ids):
                return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
            case ChatPrompt():
                return ""

    def breakpoints(
        self, prompt: Prompt, tokens: list[int], messages: MessageMap = NO_MESSAGES
    ) -> list[int]:
        """The positions in a prompt's `tokens` at which prefill stops to cache the state."""
        if isinstance(prompt, ChatPrompt):
            return find_breakpoints(self._build_if_possible, prompt, tokens, messages.starts)
        return []

    def map_messages(self, short: ShortPrompt, tokens: list[int]) -> MessageMap:
        """Which of a conversation's messages each of its `tokens` is in, where that is known."""
        if not isinstance(short.prompt, ChatPrompt):
            return NO_MESSAGES
        try:
            return self._map_messages(short.prompt, tokens, short.dropped_messages)
        except Exception:
            # What is only told must not fail a request.
            logger.exception("the messages of a prompt could not be found in it")
            return NO_MESSAGES

    def _map_messages(
        self, prompt: ChatPrompt, tokens: list[int], dropped_messages: int
    ) -> MessageMap:
        template = self._template_of(prompt)
        spans = self._spans.setdefault(id(template), MessageSpans(template)).find(prompt)
        starts = spans and to_tokens(*spans, tokens, self.token_bytes)
        if spans is None or starts is None:
            return NO_MESSAGES
        return map_messages(prompt, spans[1], starts, dropped_messages)

    def ignored(self, prompt: Prompt) -> list[str]:
        """The parameters of a prompt that was built and that this model ignores."""
        return self.template.variables.ignored(prompt) if isinstance(prompt, ChatPrompt) else []

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
            case ChatPrompt():
                self.limit(submit, self._bound_of(submit.prompt), at_least=True)

    def limit(self, submit: Submit, prompt_tokens: int, *, at_least: bool = False) -> int:
        """The answer's maximum number of tokens: the request's, else what the context allows.

        A ceiling is cut to what the context allows. With `at_least` the prompt may have more
        tokens.

        Raises:
            PromptError: `context_length_exceeded`, or `min_tokens` is above the limit.
        """
        available = self._context_length - prompt_tokens
        room = max(available, 1)
        max_tokens = room if submit.max_tokens is None else submit.max_tokens
        if submit.ceiling:
            max_tokens = min(max_tokens, room)
        if max_tokens > available:
            # LiteLLM and others recognise the error by these words, which OpenAI uses.
            most = self._context_length
            limit = f"This model's maximum context length is {most} tokens"
            raise context_length_exceeded(submit, prompt_tokens, most, limit, at_least=at_least)
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
        template = self._template_of(prompt)
        if self._options and self._texts.is_usable:
            text = template.render_plain(prompt)
            if text is not None:
                return self._texts.encode(text)
        tokens: list[int] = template.render(prompt, **self._options)
        return tokens

    def render(self, prompt: ChatPrompt) -> str:
        """The text that the template makes of a conversation.

        Raises:
            PromptError: the template refuses the messages.
        """
        text: str = self._template_of(prompt).render(prompt, tokenize=False)
        return text

    def _template_of(self, prompt: ChatPrompt) -> ChatTemplate:
        if prompt.tools:
            return self._named.get("tool_use", self.template)
        if prompt.options.get(DOCUMENTS):
            return self._named.get("rag", self.template)
        return self.template

    def _build_if_possible(self, prompt: Prompt) -> list[int]:
        try:
            return self._build(prompt)
        except PromptError:
            return []

    def encode(
        self, text: str, *, special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The token ids of a text.

        With `special_tokens` the tokenizer adds its own, unless the text begins with one. Without
        `parse_special` special tokens in the text are plain text.
        """
        bos = self._tokenizer.bos_token
        has_bos = parse_special and bos is not None and text.startswith(bos)
        ids: list[int] = self._tokenizer.encode(
            text,
            add_special_tokens=special_tokens and not has_bos,
            **({} if parse_special else {"split_special_tokens": True}),
        )
        return ids

    def encode_prediction(self, text: str) -> tuple[int, ...]:
        """The tokens that an answer with this text would have; of a long text the beginning."""
        if not text:
            return ()
        text = text[:MAX_PREDICTION_CHARS]
        return tuple(self.encode(text, special_tokens=False, parse_special=False))

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
        index = index_outside(ids, self._vocabulary_size)
        if index is not None:
            limit = self._vocabulary_size - 1
            message = f"Token id {ids[index]} at {index} is outside 0 to {limit}."
            raise PromptError("invalid_value", message, "prompt")
        return ids


def least_room(submit: Submit) -> int:
    """How many tokens must be left for the answer: all of them if its limit is no ceiling."""
    whole = 0 if submit.ceiling or submit.max_tokens is None else submit.max_tokens
    return max(whole, submit.sampling.min_tokens, 1)


def index_outside(ids: Sequence[int], size: int) -> int | None:
    """The index of the first token id that is not below `size`; None if all are."""
    if not ids or max(ids) < size:
        return None
    return next(index for index, token in enumerate(ids) if token >= size)
