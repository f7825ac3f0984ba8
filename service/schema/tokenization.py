"""/tokenize, /detokenize, /apply-template and /tokenizer_info: vLLM's shapes and llama.cpp's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from service.errors import InvalidRequest
from service.schema.chat import ChatRequest, Messages, ReasoningEffort, TemplateOptions
from service.schema.parameters import TokenId
from service.schema.tools import ToolChoice, Tools

CONVERSATION_OPTIONS = (
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "reasoning_effort",
    "tool_choice",
    "tools",
)
# The text to tokenize, and the options that it may have.
TEXT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("add_special_tokens", "return_token_strs"),
    "messages": ("add_special_tokens", "return_token_strs", *CONVERSATION_OPTIONS),
    "content": ("add_special", "parse_special", "with_pieces"),
}
OPTIONS = frozenset(name for names in TEXT_OPTIONS.values() for name in names)

ModelName = Annotated[str, Meta(description="The first configured model without it.")]
AddSpecialTokens = Annotated[
    bool,
    Meta(
        description="Adds the tokens that begin and end a text, unless it begins with one. True "
        "with `prompt`, else false."
    ),
]
ReturnTokenStrings = Annotated[bool, Meta(description="Returns the tokens of the vocabulary, too.")]
AddSpecial = Annotated[
    bool,
    Meta(description="Adds the tokens that begin and end a text, unless it begins with one."),
]
ParseSpecial = Annotated[
    bool, Meta(description="Without it special tokens in `content` are plain text.")
]
WithPieces = Annotated[bool, Meta(description="Returns each token of `content` with its text.")]


class ConversationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes the prompt of a chat completion, besides its messages."""

    model: ModelName | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    continue_final_message: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    tool_choice: ToolChoice | None = None
    tools: Tools | None = None

    def to_chat(self, messages: Messages, model: str = "") -> ChatRequest:
        """The chat completion with the same prompt."""
        options = {name: getattr(self, name) for name in CONVERSATION_OPTIONS}
        return ChatRequest(model=model, messages=messages, **options)


class TokenizeRequest(ConversationRequest, frozen=True, kw_only=True):
    """A text or messages to tokenize: one of `prompt`, `messages` (vLLM) and `content` (llama.cpp).

    The other parameters are options of one or two of these.
    """

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: AddSpecialTokens | None = None
    return_token_strs: ReturnTokenStrings | None = None
    content: str | None = None
    add_special: AddSpecial | None = None
    parse_special: ParseSpecial | None = None
    with_pieces: WithPieces | None = None

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        texts = [name for name in TEXT_OPTIONS if getattr(self, name) is not None]
        if not texts:
            message = "Missing required parameter: one of `prompt`, `messages` and `content`."
            raise InvalidRequest(message, param="prompt", code="missing_required_parameter")
        if len(texts) > 1:
            message = f"`{texts[0]}` and `{texts[1]}` are two texts: set only one of them."
            raise InvalidRequest(message, param=texts[1], code="invalid_value")
        for name in sorted(OPTIONS.difference(TEXT_OPTIONS[texts[0]])):
            if has_effect(name, getattr(self, name)):
                message = f"`{name}` has no effect on `{texts[0]}`."
                raise InvalidRequest(message, param=name, code="invalid_value")
        if self.messages is not None:
            self.to_chat(self.messages).check()


def has_effect(name: str, value: object) -> bool:
    """Whether the value of an option differs from what leaving it out means."""
    if name == "parse_special":
        return value is False
    return value is not None and value is not False and value not in ([], {})


class ApplyTemplateRequest(ConversationRequest, frozen=True, kw_only=True):
    """Messages to render with the model's chat template."""

    messages: Messages

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        self.to_chat(self.messages).check()


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Token ids to convert to text."""

    tokens: list[TokenId]
    model: ModelName | None = None

    def check(self) -> None:
        """There are no rules beyond the types."""


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a `prompt` or of `messages`; `max_model_len` is the model's context length."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TokenPiece(msgspec.Struct, frozen=True):
    """One token and its text; its bytes if they are no UTF-8, such as a part of a character."""

    id: int
    piece: str | list[int]


class ContentTokens(msgspec.Struct, frozen=True):
    """The tokens of a `content`."""

    tokens: list[int | TokenPiece]


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text of token ids, under the names of vLLM and of llama.cpp."""

    prompt: str
    content: str


class RenderedTemplate(msgspec.Struct, frozen=True):
    """The text that a chat template makes of messages."""

    prompt: str


class TokenizerInfo(msgspec.Struct, frozen=True):
    """A tokenizer's configuration; it has the other settings of tokenizer_config.json, too."""

    tokenizer_class: str
    chat_template: str | None
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
