"""Conversions by a model's tokenizer alone: texts and conversations to tokens, and back.

A result is JSON. It may have millions of tokens, so it is encoded here, where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.events import Tokenized
from protocol.messages import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from protocol.tokenization import Tokenize
from protocol.units import MIB
from worker.prompt_errors import PromptError
from worker.prompts.builder import PromptBuilder, index_outside
from worker.prompts.tokenizer_facts import describe_tokenizer

# A message to the service has room for this, and its event loop copies it within some tens of ms.
MAX_RESULT_BYTES = 32 * MIB
# A text to find out what a tokenizer adds to each text.
PROBE = "a"


def convert(prompts: PromptBuilder, request: Tokenize) -> Tokenized:
    """The result of one request. A prompt beyond the context length is converted, too.

    Raises:
        PromptError: the prompt cannot be converted, or the result is too large.
    """
    prompt: Prompt | None = msgspec.msgpack.decode(request.prompt, type=Prompt | None)
    match prompt:
        case ChatPrompt() if request.as_text:
            result = to_result(prompts, request, msgspec.json.encode(prompts.render(prompt)))
        case ChatPrompt():
            result = of_tokens(prompts, request, encode_chat(prompts, prompt, request))
        case TextPrompt(text):
            tokens = prompts.encode(
                text, special_tokens=request.special_tokens, parse_special=request.parse_special
            )
            result = of_tokens(prompts, request, tokens)
        case TokenPrompt(ids):
            text = decode(prompts, ids, request.param)
            result = to_result(prompts, request, msgspec.json.encode(text), count=len(ids))
        case None:
            facts = describe_tokenizer(prompts.tokenizer, prompts.context_length)
            result = to_result(prompts, request, msgspec.json.encode(facts))
    if len(result.value) + len(result.strings) > MAX_RESULT_BYTES:
        message = f"The result has more than {MAX_RESULT_BYTES // MIB} MiB."
        raise PromptError("prompt_too_large", message, request.param)
    if isinstance(prompt, ChatPrompt):
        return msgspec.structs.replace(result, ignored=prompts.ignored(prompt))
    return result


def to_result(
    prompts: PromptBuilder, request: Tokenize, value: bytes, *, count: int = 0, strings: bytes = b""
) -> Tokenized:
    return Tokenized(
        id=request.id,
        context_length=prompts.context_length,
        value=value,
        count=count,
        strings=strings,
    )


def of_tokens(prompts: PromptBuilder, request: Tokenize, tokens: list[int]) -> Tokenized:
    """The result that has these tokens, with the strings that are requested."""
    value, strings = b"", b""
    match request.strings:
        case "none":
            value = msgspec.json.encode(tokens)
        case "vocabulary":
            value = msgspec.json.encode(tokens)
            strings = encode_each(tokens, prompts.tokenizer.convert_ids_to_tokens)
        case "pieces":
            value = encode_each(tokens, lambda token: piece_of(token, prompts.token_bytes(token)))
    return to_result(prompts, request, value, count=len(tokens), strings=strings)


def encode_each(tokens: Iterable[int], describe: Callable[[int], Any]) -> bytes:
    """A JSON array of what `describe` gives for each token; each distinct one is encoded once."""
    encoded: dict[int, bytes] = {}

    def encode(token: int) -> bytes:
        if token not in encoded:
            encoded[token] = msgspec.json.encode(describe(token))
        return encoded[token]

    return b"[" + b",".join([encode(token) for token in tokens]) + b"]"


def piece_of(token: int, data: bytes) -> dict[str, Any]:
    """A token with its text, or with its bytes if they are not UTF-8, as llama.cpp gives them."""
    try:
        return {"id": token, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}


def encode_chat(prompts: PromptBuilder, prompt: ChatPrompt, request: Tokenize) -> list[int]:
    """The token ids that a chat with these messages has as its prompt.

    With `special_tokens` those of a text are added to them.
    """
    short = prompts.shorten(prompt)
    tokens = short.tokens or prompts.build(short.prompt)
    if not request.special_tokens:
        return tokens
    first, last = added_tokens(prompts.tokenizer)
    return [*first, *tokens, *last]


def added_tokens(tokenizer: TokenizerWrapper) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before each text, and those that it puts after it."""
    plain: list[int] = tokenizer.encode(PROBE, add_special_tokens=False)
    whole: list[int] = tokenizer.encode(PROBE)
    starts = range(len(whole) - len(plain) + 1)
    at = next(start for start in starts if whole[start : start + len(plain)] == plain)
    return whole[:at], whole[at + len(plain) :]


def decode(prompts: PromptBuilder, ids: list[int], param: str) -> str:
    """The text of token ids, special tokens included; bytes that are not UTF-8 are U+FFFD.

    Raises:
        PromptError: an id is outside the vocabulary.
    """
    index = index_outside(ids, prompts.largest_id + 1)
    if index is not None:
        param = f"{param}[{index}]"
        message = f"`{param}`: token id {ids[index]} is outside 0 to {prompts.largest_id}."
        raise PromptError("invalid_value", message, param)
    text: str = prompts.tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
