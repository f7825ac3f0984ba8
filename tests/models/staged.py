"""A model that says one given text, so that any answer of any family is staged without a mock.

Each piece of the text is one token, which makes the next one the likeliest, whatever came
before. Any token that is no piece of the text is followed by the text's first piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from worker.outputs.detokenizer import byte_level_alphabet

ALPHABET = byte_level_alphabet()
ROWS_MULTIPLE = 64
HEADS = 4
HEAD_WIDTH = 16
INNER_WIDTH = 64
CONTEXT_TOKENS = 16_384
# Logits: a piece's successor has over 1,000 times the weight of all other tokens.
EMBEDDING = 8.0
LOGIT = 10.0
END = "<|im_end|>"
THEN, THEN_END = "<|then|>", "<|then_end|>"
PAD = "<|endoftext|>"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same with calls, for a model that says something else after a tool's result.
CHATML_THEN = (
    "{# <tool_call> tools #}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if messages[-1].role == 'tool' %}" + THEN + "{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Staged:
    """A model's answer and the files around it.

    `special` and `added` tokens have ids of their own; the former are special. `end` is the stop
    token, `bos` what the template may begin with, and `after` the text of the prompt's last token.
    With `then` the template ends the prompt with `THEN` after a tool's result: it is said instead.
    """

    says: str
    template: str = CHATML
    special: Sequence[str] = (PAD, "<|im_start|>", END)
    added: Sequence[str] = ()
    end: str = END
    after: str = "\n"
    bos: str | None = None
    then: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def make(staged: Staged, folder: Path) -> Path:
    """Write the model to `folder` and return the folder."""
    folder.mkdir(parents=True)
    markers = [*staged.special, *staged.added]
    says, ends = staged.says, [staged.end]
    if staged.then:
        markers += [THEN, THEN_END]
        says, ends = f"{says}{staged.end}{THEN}{staged.then}", [staged.end, THEN_END]
    pieces, merges = split(says, markers, staged.after)
    names = [*ALPHABET.values(), *dict.fromkeys(left + right for left, right in merges)]
    ids = {name: id for id, name in enumerate([*names, *markers])}
    chain = [*(ids[piece] for piece in pieces), ids[ends[-1]]]
    assert len(set(chain)) == len(chain), "a token can be followed by one other only"
    rows = (len(ids) // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE
    config = {**_config(rows, len(chain), ids[staged.end]), **staged.config}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [ids[end] for end in ends]})
    _write(folder / "tokenizer.json", _tokenizer(ids, names, merges, staged))
    _write(folder / "tokenizer_config.json", _tokenizer_config(staged))
    (folder / "chat_template.jinja").write_text(staged.template, encoding="utf-8")
    weights = {name: mx.array(value) for name, value in _weights(config, chain).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def split(text: str, markers: Sequence[str], after: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Divide `text` into pieces that are all different, none of them `after`, and give the merges.

    The pieces are those into which a tokenizer with these merges divides the text: grammars
    expect a tokenizer's own division. A marker that is repeated, or is `after`, is plain text.
    """
    runs: list[list[str]] = []
    taken: set[str] = set()
    parts = re.split(f"({'|'.join(map(re.escape, markers))})", text) if markers else [text]
    for part in filter(None, parts):
        if part in markers and part not in taken and part != after:
            taken.add(part)
            runs.append([part])
        else:
            runs.append([ALPHABET[byte] for byte in part.encode()])
    last = spell(after) if after not in markers else after
    merges: list[tuple[str, str]] = []
    while pair := _repeated_pair(runs, last, taken):
        merges.append(pair)
        for run in runs:
            _merge(run, pair)
    return [piece for run in runs for piece in run], merges


def spell(text: str) -> str:
    """The text in the alphabet of a byte-level vocabulary."""
    return "".join(ALPHABET[byte] for byte in text.encode())


def _repeated_pair(
    runs: Sequence[Sequence[str]], last: str, taken: set[str]
) -> tuple[str, str] | None:
    """The first piece that occurred before, with a neighbour; None if all pieces differ."""
    seen = {last}
    for run in runs:
        for index, piece in enumerate(run):
            if piece in seen and piece not in taken:
                if index + 1 < len(run) and run[index + 1] != last:
                    return piece, run[index + 1]
                if index:
                    return run[index - 1], piece
            seen.add(piece)
    return None


def _merge(run: list[str], pair: tuple[str, str]) -> None:
    index = 0
    while index + 1 < len(run):
        if (run[index], run[index + 1]) == pair:
            run[index : index + 2] = ["".join(pair)]
        index += 1


def _config(rows: int, chain_tokens: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": (chain_tokens // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE,
        "intermediate_size": INNER_WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_WIDTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "vocab_size": rows,
        "eos_token_id": end,
    }


def _tokenizer(
    ids: Mapping[str, int],
    names: Sequence[str],
    merges: Sequence[tuple[str, str]],
    staged: Staged,
) -> dict[str, Any]:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [*staged.special, *([THEN, THEN_END] if staged.then else [])]
    # Tokenizers number them in this order.
    markers = sorted((*special, *staged.added), key=lambda name: ids[name])
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": ids[name], "content": name, "special": name in special, **plain}
            for name in markers
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {name: ids[name] for name in names},
            "merges": merges,
        },
    }


def _tokenizer_config(staged: Staged) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": staged.bos,
        "eos_token": staged.end,
        "pad_token": staged.special[0],
    }


def _weights(config: Mapping[str, Any], chain: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Embeddings that set one hidden dimension per piece, which only its successor reads."""
    rows, width = config["vocab_size"], config["hidden_size"]
    embedding, head = (np.zeros((rows, width), np.float32) for _ in range(2))
    embedding[:, 0] = EMBEDDING
    head[chain[0], 0] = LOGIT
    for dimension, (piece, successor) in enumerate(pairwise(chain), 1):
        embedding[piece, 0] = 0.0
        embedding[piece, dimension] = EMBEDDING
        head[successor, dimension] = LOGIT
    attention = HEADS * HEAD_WIDTH
    zeros = {
        "self_attn.q_proj": (attention, width),
        "self_attn.k_proj": (attention, width),
        "self_attn.v_proj": (attention, width),
        "self_attn.o_proj": (width, attention),
        "mlp.gate_proj": (INNER_WIDTH, width),
        "mlp.up_proj": (INNER_WIDTH, width),
        "mlp.down_proj": (width, INNER_WIDTH),
    }
    ones = {
        "input_layernorm": width,
        "post_attention_layernorm": width,
        "self_attn.q_norm": HEAD_WIDTH,
        "self_attn.k_norm": HEAD_WIDTH,
    }
    layer = "model.layers.0"
    return {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": np.ones(width, np.float32),
        **{f"{layer}.{n}.weight": np.zeros(shape, np.float32) for n, shape in zeros.items()},
        **{f"{layer}.{n}.weight": np.ones(size, np.float32) for n, size in ones.items()},
    }


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
