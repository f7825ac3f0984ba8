"""The end of turn that a chat template writes and that no file names as a stop token.

Fine-tunes of base models often name only the base model's end of text. The template shows which
token follows an assistant's message, so the answer ends there.
"""

from __future__ import annotations

from itertools import takewhile

from mlx_lm.tokenizer_utils import TokenizerWrapper

# Texts that no template has of its own.
QUESTION, ANSWER, NEXT_QUESTION = "The question 1?", "The answer 1.", "The question 2?"
USER = {"role": "user", "content": QUESTION}
ASSISTANT = {"role": "assistant", "content": ANSWER}
NEXT_USER = {"role": "user", "content": NEXT_QUESTION}
# In OpenAI's harmony format several messages, each with its end, are one answer.
HARMONY = {"<|channel|>", "<|message|>", "<|start|>", "<|end|>"}


def find_turn_end(tokenizer: TokenizerWrapper, stop_tokens: set[int]) -> int | None:
    """The special token that ends an assistant's turn, if none of `stop_tokens` does; else None."""
    if not (tokenizer.has_chat_template and isinstance(tokenizer.chat_template, str)):
        return None
    try:
        return _find(tokenizer, stop_tokens)
    except Exception:
        # A template may refuse any conversation, with errors of any type.
        return None


def _find(tokenizer: TokenizerWrapper, stop_tokens: set[int]) -> int | None:
    _, answer, end = _render(tokenizer, [USER, ASSISTANT]).rpartition(ANSWER)
    ends = _special_tokens(tokenizer, end)
    if not (answer and ends) or ends[0] in stop_tokens:
        return None
    conversation = _render(tokenizer, [USER, ASSISTANT, NEXT_USER])
    _, _, rest = conversation.partition(ANSWER)
    between, next_question, _ = rest.partition(NEXT_QUESTION)
    ends_between = _special_tokens(tokenizer, between) if next_question else []
    if ends_between[:1] != ends[:1] or stop_tokens.intersection(ends_between):
        # It begins the next turn, or what ends this one is named, further on.
        return None
    return None if ends[0] in _tokens_inside_turns(tokenizer) else ends[0]


def _tokens_inside_turns(tokenizer: TokenizerWrapper) -> set[int]:
    """The special tokens that begin an answer, or may be anywhere in it."""
    markers = [
        tokenizer.think_start,
        tokenizer.think_end,
        tokenizer.tool_call_start,
        tokenizer.tool_call_end,
        *tokenizer.structural_markers,
    ]
    if tokenizer.get_vocab().keys() >= HARMONY:
        markers += HARMONY
    question, prompt = (
        _special_tokens(
            tokenizer, _render(tokenizer, [USER], add_generation_prompt=add).rpartition(QUESTION)[2]
        )
        for add in (False, True)
    )
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(question, prompt, strict=False))
    header = prompt[len(list(alike)) :]
    return {*header, *_special_tokens(tokenizer, " ".join(filter(None, markers)))}


def _render(
    tokenizer: TokenizerWrapper,
    messages: list[dict[str, str]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    )


def _special_tokens(tokenizer: TokenizerWrapper, text: str) -> list[int]:
    """The special tokens in a text, in order."""
    added = tokenizer.added_tokens_decoder
    tokens = tokenizer.encode(text, add_special_tokens=False) if text else []
    return [token for token in tokens if token in added and added[token].special]
