"""Tiny models of three real families, about 0.2 million parameters each, in float32."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from tokenizers import Tokenizer

from tests.models import templates, tokenizers, weights

CONTEXT_TOKENS = 4096
SLIDING_WINDOW_TOKENS = 64
SEED = 0
LEARNED_TOKENS = 1000
ROWS_MULTIPLE = 64  # the embedding has more rows than there are tokens, as in published models
# Each needs several tokens in each of the tokenizers, and no two share a byte.
SPLIT_CHARACTERS = "😀語ก"

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": CONTEXT_TOKENS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


@dataclass(frozen=True)
class Family:
    """The differences between the models of the families.

    `stop_tokens` end an answer: generation_config.json has all of them, the other files only
    the first.
    """

    model_type: str
    architecture: str
    tokenizer_class: str
    tokenizer: Callable[[], Tokenizer]
    template: str
    bos: str | None
    stop_tokens: tuple[str, ...]
    pad: str
    sizes: dict[str, Any]
    embedding_deviation: float


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    tokenizer_class="PreTrainedTokenizerFast",
    tokenizer=lambda: tokenizers.byte_level(
        LEARNED_TOKENS,
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ],
        bos="<|begin_of_text|>",
        nfc=False,
    ),
    template=templates.LLAMA,
    bos="<|begin_of_text|>",
    stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    pad="<|end_of_text|>",
    sizes={"num_hidden_layers": 2},
    embedding_deviation=1.0,
)

QWEN = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    tokenizer_class="Qwen2Tokenizer",
    tokenizer=lambda: tokenizers.byte_level(
        LEARNED_TOKENS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], bos=None, nfc=True
    ),
    template=templates.QWEN,
    bos=None,
    stop_tokens=("<|im_end|>", "<|endoftext|>"),
    pad="<|endoftext|>",
    sizes={"num_hidden_layers": 2},
    embedding_deviation=1.0,
)

GEMMA = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    tokenizer_class="GemmaTokenizer",
    tokenizer=lambda: tokenizers.sentencepiece(
        LEARNED_TOKENS,
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"],
        bos="<bos>",
    ),
    template=templates.GEMMA,
    bos="<bos>",
    stop_tokens=("<end_of_turn>", "<eos>"),
    pad="<pad>",
    sizes={
        "num_hidden_layers": 2,
        "query_pre_attn_scalar": 16,
        "sliding_window": SLIDING_WINDOW_TOKENS,
        "sliding_window_pattern": 2,
    },
    # The model multiplies embeddings by 8, the square root of its hidden size.
    embedding_deviation=0.25,
)


def make(family: Family, folder: Path, *, brief: bool = False) -> Path:
    """Write a model of `family` to `folder`, which must not exist yet, and return the folder.

    Its answers never end with a stop token; with `brief` they do, after some tens of
    tokens.
    """
    folder.mkdir(parents=True)
    tokenizer = family.tokenizer()
    config = _config(family, tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(family))
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": _stop_token_ids(family, tokenizer)})
    values = _weights(family, tokenizer, config, brief=brief)
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: mx.array(value) for name, value in values.items()},
        metadata={"format": "mlx"},
    )
    return folder


def _config(family: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": (tokenizer.get_vocab_size() // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE,
        "bos_token_id": tokenizer.token_to_id(family.bos) if family.bos else None,
        "eos_token_id": _stop_token_ids(family, tokenizer)[0],
        **SIZES,
        **family.sizes,
    }


def _stop_token_ids(family: Family, tokenizer: Tokenizer) -> list[int]:
    ids = map(tokenizer.token_to_id, family.stop_tokens)
    return [token for token in ids if token is not None]


def _tokenizer_config(family: Family) -> dict[str, Any]:
    return {
        "tokenizer_class": family.tokenizer_class,
        "bos_token": family.bos,
        "eos_token": family.stop_tokens[0],
        "pad_token": family.pad,
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": family.template,
    }


def _weights(
    family: Family, tokenizer: Tokenizer, config: dict[str, Any], *, brief: bool
) -> weights.Weights:
    values = weights.draw(_model(config), embedding_deviation=family.embedding_deviation, seed=SEED)
    spellings = [
        tokenizer.encode(character, add_special_tokens=False).ids for character in SPLIT_CHARACTERS
    ]
    boosted = [spelling[0] for spelling in spellings]
    if brief:
        boosted += _stop_token_ids(family, tokenizer)
    unprintable = set(_unprintable(tokenizer, config["vocab_size"]))
    weights.suppress(values, unprintable.difference(boosted))
    weights.boost(values, boosted)
    weights.link(values, spellings)
    return values


def _model(config: dict[str, Any]) -> nn.Module:
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    return model


def _unprintable(tokenizer: Tokenizer, rows: int) -> Iterable[int]:
    """Ids without text of their own: special, control, part of a character, no token at all."""
    special = tokenizer.get_added_tokens_decoder()
    for token in range(rows):
        text = "" if token in special else tokenizer.decode([token], skip_special_tokens=False)
        if not text or not all(_is_printable(character) for character in text):
            yield token


def _is_printable(character: str) -> bool:
    return character != "\ufffd" and (character.isprintable() or character in "\n\t")


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
