"""A Llama in llama.cpp's GGUF format, as the weights, configuration and tokenizer of mlx-lm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Arrays = dict[str, mx.array]

# MLX reads a block of Q4_1 as a group of 4 bits, and one of Q8_0 as a group of 8 bits.
GROUP_SIZE = 32
PACKED_BITS = 32
CONTROL_TOKEN = 3  # of llama.cpp's token types
# llama.cpp's names of the parts of a name, and mlx-lm's.
RENAMED = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk": "model.layers",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


@dataclass(frozen=True)
class Gguf:
    """A file's arrays and metadata under llama.cpp's names."""

    arrays: Arrays
    metadata: dict[str, Any]

    def number(self, name: str) -> Any:
        """A number of the metadata."""
        return self.metadata[name].item()

    @property
    def bos(self) -> int:
        """The id of the token that begins a text."""
        return int(self.number("tokenizer.ggml.bos_token_id"))

    @property
    def eos(self) -> int:
        """The id of the token that ends an answer."""
        return int(self.number("tokenizer.ggml.eos_token_id"))


def read(file: Path) -> Gguf:
    """Read a GGUF file; weights of 4 and 8 bits stay quantised."""
    arrays, metadata = cast(
        "tuple[Arrays, dict[str, Any]]", mx.load(str(file), return_metadata=True)
    )
    return Gguf(arrays, metadata)


def config_of(gguf: Gguf) -> dict[str, Any]:
    """What config.json says of it, without quantisation."""
    heads = gguf.number("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": gguf.number("llama.vocab_size"),
        "hidden_size": gguf.number("llama.embedding_length"),
        "intermediate_size": gguf.number("llama.feed_forward_length"),
        "num_hidden_layers": gguf.number("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.number("llama.attention.head_count_kv"),
        "head_dim": gguf.number("llama.embedding_length") // heads,
        "max_position_embeddings": gguf.number("llama.context_length"),
        # A float32 of the file, which 1e-5 is not.
        "rms_norm_eps": round(gguf.number("llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": gguf.number("llama.rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in gguf.arrays,
        "bos_token_id": gguf.bos,
        "eos_token_id": gguf.eos,
    }


def weights_of(gguf: Gguf) -> Arrays:
    """The arrays under mlx-lm's names, with the rows of q and k in mlx-lm's order."""
    heads = {
        "attn_q": gguf.number("llama.attention.head_count"),
        "attn_k": gguf.number("llama.attention.head_count_kv"),
    }
    weights = {}
    for name, array in gguf.arrays.items():
        part = name.split(".")[-2]
        restored = restore_rows(array, heads[part]) if part in heads else array
        weights[".".join(RENAMED.get(word, word) for word in name.split("."))] = restored
    return weights


def restore_rows(array: mx.array, heads: int) -> mx.array:
    """Undo llama.cpp's order of the rows of a head: its pairs for the rotation are adjacent.

    In mlx-lm a head's first half of rows is paired with its second half.
    """
    rows = array.shape[0]
    pairs = array.reshape(heads, rows // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(array.shape)


def quantisation_of(weights: Arrays) -> dict[str, Any]:
    """What config.json says of quantised weights; each layer is named with its bits."""
    layers = {name: bits_of(weights, name) for name, _ in quantised(weights)}
    settings = {name: {"group_size": GROUP_SIZE, "bits": bits} for name, bits in layers.items()}
    return {"group_size": GROUP_SIZE, "bits": min(layers.values()), **settings}


def dequantise(weights: Arrays) -> Arrays:
    """The same weights in float32."""
    plain = {
        f"{name}.weight": mx.dequantize(
            array,
            weights[f"{name}.scales"].astype(mx.float32),
            weights[f"{name}.biases"].astype(mx.float32),
            group_size=GROUP_SIZE,
            bits=bits_of(weights, name),
        )
        for name, array in quantised(weights)
    }
    unquantised = {
        name: array.astype(mx.float32)
        for name, array in weights.items()
        if f"{name.rpartition('.')[0]}.scales" not in weights
    }
    return {**plain, **unquantised}


def quantised(weights: Arrays) -> Iterator[tuple[str, mx.array]]:
    """The layers with quantised weights, and these weights."""
    for name in weights:
        layer, _, kind = name.rpartition(".")
        if kind == "scales":
            yield layer, weights[f"{layer}.weight"]


def bits_of(weights: Arrays, layer: str) -> int:
    """The bits of each of a quantised layer's weights."""
    packed, scales = weights[f"{layer}.weight"], weights[f"{layer}.scales"]
    return PACKED_BITS * packed.shape[-1] // (scales.shape[-1] * GROUP_SIZE)


def tokenizer_of(gguf: Gguf) -> Tokenizer:
    """The byte-level BPE of the metadata; each digit is a token of its own."""
    names: list[str] = gguf.metadata["tokenizer.ggml.tokens"]
    merges: list[str] = gguf.metadata["tokenizer.ggml.merges"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=[(left, right) for left, _, right in (merge.partition(" ") for merge in merges)],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = gguf.metadata["tokenizer.ggml.token_type"].tolist()
    control = [name for name, kind in zip(names, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in control])
    return tokenizer


def tokenizer_config_of(gguf: Gguf) -> dict[str, Any]:
    """What tokenizer_config.json says, with the chat template."""
    names: list[str] = gguf.metadata["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[gguf.bos],
        "eos_token": names[gguf.eos],
        "pad_token": names[gguf.number("tokenizer.ggml.padding_token_id")],
        "unk_token": names[gguf.number("tokenizer.ggml.unknown_token_id")],
        "model_max_length": gguf.number("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": gguf.metadata["tokenizer.chat_template"],
    }
