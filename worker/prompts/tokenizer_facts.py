"""A tokenizer's configuration as clients may see it, in the form of tokenizer_config.json.

It has only settings of these names, because others may hold paths of the machine.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
SWITCHES = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "legacy",
    "split_special_tokens",
)
SIDES = ("padding_side", "truncation_side")


def describe_tokenizer(tokenizer: TokenizerWrapper, context_length: int) -> dict[str, Any]:
    """The configuration. `model_max_length` is at most the context length that is served."""
    configured = tokenizer.init_kwargs
    return {
        "tokenizer_class": type(tokenizer._tokenizer).__name__,
        "chat_template": template_of(tokenizer),
        "model_max_length": min(int(tokenizer.model_max_length), context_length),
        "vocab_size": len(tokenizer),
        **{name: getattr(tokenizer, name, None) for name in SPECIAL_TOKENS},
        "additional_special_tokens": [
            str(token) for token in getattr(tokenizer, "extra_special_tokens", None) or ()
        ],
        **{name: configured[name] for name in SWITCHES if is_switch(configured.get(name))},
        **{name: getattr(tokenizer, name) for name in SIDES},
        "added_tokens_decoder": {
            str(id): describe_added(token) for id, token in tokenizer.added_tokens_decoder.items()
        },
    }


def template_of(tokenizer: TokenizerWrapper) -> str | None:
    """The chat template; None without one, and for one that is not text but mlx-lm's own code."""
    template = tokenizer.chat_template if tokenizer.has_chat_template else None
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def is_switch(value: object) -> bool:
    """Whether the setting has a value, which is on or off."""
    return isinstance(value, bool)


def describe_added(token: Any) -> dict[str, Any]:
    """One token that was added to the vocabulary."""
    return {
        "content": str(token.content),
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }
