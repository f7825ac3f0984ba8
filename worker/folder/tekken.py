"""Mistral's Tekken vocabularies, which many folders describe wrongly.

They are byte-level. Conversions may have SentencePiece's decoder (which leaves a letter in the
place of each space) or another vocabulary's pattern of words; some have Mistral's own tekken.json
alone. transformers reads all of these without mistral-common, with the right settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import decoders

from worker.folder.json_values import read_object

TEKKEN, TOKENIZER, TOKENIZER_CONFIG = "tekken.json", "tokenizer.json", "tokenizer_config.json"
MODEL_TYPES = (
    "ministral",
    "ministral3",
    "mistral",
    "mistral3",
    "mistral4",
    "mixtral",
    "pixtral",
    "voxtral",
)
# Among the first added tokens of Mistral's vocabularies, and of no others.
CONTROL_TOKEN = b'"[AVAILABLE_TOOLS]"'
HEAD_BYTES = 64 * 1024


def tekken_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which transformers reads a Tekken vocabulary; none for others."""
    if not (path / TOKENIZER).exists():
        return _settings_of_tekken_file(path) if (path / TEKKEN).exists() else {}
    if config.get("model_type") not in MODEL_TYPES or not _has_control_token(path / TOKENIZER):
        return {}
    # Only vocabularies of more than 100,000 tokens have a wrong pattern to fix.
    return {"mistral_format": False, "fix_mistral_regex": True}


def _settings_of_tekken_file(path: Path) -> dict[str, Any]:
    """The file names its control tokens, and not which of them begin and end a text."""
    named, _ = read_object(path / TOKENIZER_CONFIG)
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    missing = {key: token for key, token in defaults.items() if named.get(key) is None}
    return {
        "mistral_format": False,
        "add_bos_token": True,
        # A class of its own would want mistral-common or SentencePiece.
        "tokenizer_type": "mistral",
        **missing,
    }


def _has_control_token(file: Path) -> bool:
    with file.open("rb") as content:
        return CONTROL_TOKEN in content.read(HEAD_BYTES)


def mend_decoder(tokenizer: TokenizerWrapper) -> None:
    """Let a byte-level vocabulary be decoded as such, whatever its decoder says.

    Remove when transformers (5.23 does not) takes the decoder of the words' pattern.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_byte_level(backend.pre_tokenizer):
        return
    if not _is_byte_level(backend.decoder):
        backend.decoder = decoders.ByteLevel()


def _is_byte_level(step: Any) -> bool:
    """Whether one of a tokenizer's steps uses GPT-2's alphabet of bytes, or has one that does."""
    return step is not None and b"ByteLevel" in step.__getstate__()
