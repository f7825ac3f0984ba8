"""Tokenizers of the two common kinds: byte-level BPE, and SentencePiece with byte fallback.

Both have tokens for all 256 bytes, and for few characters beyond ASCII: emoji and most
of CJK need several tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.models import corpus

SPACE = "\u2581"
UNKNOWN = "<unk>"
# Words with the space before them, single digits, punctuation, line breaks.
BYTE_LEVEL_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(size: int, special: Sequence[str], *, bos: str | None, nfc: bool) -> Tokenizer:
    """`size` learned tokens in the format of GPT-2, then the special ones.

    With `bos`, encoded text begins with it. With `nfc`, text is normalised to composed
    characters.
    """
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_LEVEL_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus.sentences(), _trainer(size, initial_alphabet=alphabet))
    _add_special(tokenizer, special, bos)
    return tokenizer


def sentencepiece(size: int, special: Sequence[str], *, bos: str) -> Tokenizer:
    """The special tokens, including `UNKNOWN`, the 256 bytes, then `size` learned tokens."""
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", SPACE)
    learned.pre_tokenizer = pre_tokenizers.Split(SPACE, behavior="merged_with_next")
    learned.train_from_iterator(corpus.sentences(), _trainer(size))
    bpe = json.loads(learned.to_str())["model"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *bpe["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=[(left, right) for left, right in bpe["merges"]],
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = learned.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _add_special(tokenizer, special, bos)
    return tokenizer


def _trainer(size: int, initial_alphabet: Sequence[str] = ()) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=list(initial_alphabet), show_progress=False
    )


def _add_special(tokenizer: Tokenizer, special: Sequence[str], bos: str | None) -> None:
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    if bos is not None:
        begin = (bos, tokenizer.token_to_id(bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[begin]
        )
