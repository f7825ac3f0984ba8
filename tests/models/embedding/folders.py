"""Writes the folder of a tiny model; its weights are drawn by their names.

Imports neither MLX nor torch, as `samples`.
"""

from __future__ import annotations

import json
import string
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.models.corpus import WORDS
from tests.models.embedding.samples import (
    DENSE,
    JSON,
    MAX_TOKENS,
    TRANSFORMER,
    VOCABULARY,
    Sample,
    TokenizerStyle,
)

Shapes = Mapping[str, Sequence[int]]
Weights = dict[str, NDArray[np.float32]]
MATRIX_DEVIATION = 1.5  # over the square root of the number of inputs
VECTOR_DEVIATION = 0.2
# Special tokens in the order of their ids: padding, unknown, first, last.
SPECIAL: Mapping[TokenizerStyle, Sequence[str]] = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>"),
    "qwen": ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
TEMPLATES: Mapping[TokenizerStyle, tuple[str, str]] = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "gemma": ("<bos> $A <eos>", "<bos> $A <eos> $B <eos>"),
    "qwen": ("$A <|endoftext|>", "$A <|endoftext|> $B <|endoftext|>"),
}
NAMES: Mapping[TokenizerStyle, JSON] = {
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "roberta": {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
    },
    "gemma": {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
    },
    "qwen": {
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "eos_token": "<|endoftext|>",
        "padding_side": "left",
    },
}


def write_folder(sample: Sample, shapes: Mapping[str, Shapes], folder: Path) -> Path:
    """Write a model's folder; `shapes` are those of each folder's weights, by its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", sample.config)
    write_tokenizer(sample.style, folder, token_types=sample.token_types)
    if sample.modules:
        write_modules(sample, folder)
    for path, own in shapes.items():
        weights = draw(own, offset=0.0 if sample.style == "gemma" else 1.0)
        save_file(weights, folder / path / "model.safetensors", {"format": "pt"})
    return folder


def write_modules(sample: Sample, folder: Path) -> None:
    """Write the modules of sentence-transformers, their folders and the prompts."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}]
    for index, (kind, config) in enumerate(sample.modules, start=1):
        path = path_of(index, kind)
        (folder / path).mkdir(exist_ok=True)
        if config:
            write_json(folder / path / "config.json", config)
        modules.append({"idx": index, "name": str(index), "path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS})
    if sample.settings:
        write_json(folder / "config_sentence_transformers.json", sample.settings)


def path_of(index: int, kind: str) -> str:
    """The folder of a module, as sentence-transformers names it."""
    return f"{index}_{kind.rpartition('.')[2]}"


def dense_shapes(sample: Sample) -> dict[str, Shapes]:
    """The shapes of the linear layers' weights, by their folders."""
    return {
        path_of(index, kind): {"linear.weight": (config["out_features"], config["in_features"])}
        for index, (kind, config) in enumerate(sample.modules, start=1)
        if kind == DENSE
    }


def draw(shapes: Shapes, *, offset: float) -> Weights:
    """A weight for each name and shape; a normalisation's are about `offset`."""
    weights = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
        if name.endswith("bias"):
            values = values * VECTOR_DEVIATION
        elif len(shape) == 1:
            values = values * VECTOR_DEVIATION + offset
        elif "embed" not in name:
            values = values * MATRIX_DEVIATION / np.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
    return weights


def write_tokenizer(style: TokenizerStyle, folder: Path, *, token_types: bool) -> None:
    """Write a tokenizer with some words and all letters, and the special tokens of its kind."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [f"##{letter}" for letter in (*string.ascii_lowercase, *string.digits)]
    # The answers of a reranker.
    words = [word for word in (*WORDS, "yes", "no") if len(word) > 1]
    names = list(dict.fromkeys([*SPECIAL[style], *words, *letters, *pieces]))
    assert len(names) <= VOCABULARY
    unknown = str(NAMES[style]["unk_token"])
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL[style]])
    single, pair = TEMPLATES[style]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(name, vocabulary[name]) for name in SPECIAL[style]],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 256 if style == "qwen" else MAX_TOKENS,
        "model_input_names": inputs if token_types else [inputs[0], inputs[2]],
    }
    write_json(folder / "tokenizer_config.json", {**settings, **NAMES[style]})


def write_json(file: Path, content: JSON) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(dict(content), indent=1))
