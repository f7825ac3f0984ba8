"""What a model's folder says about itself, and where that folder is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

from worker.demo import demo_model_path

WEIGHT_FILES = "model*.safetensors"
LORA_WEIGHTS = "adapters.safetensors"
# Where a config names no context length at all.
FALLBACK_CONTEXT_TOKENS = 4096


def resolve(source: str | None, *, download: bool) -> Path:
    """The folder of a model: built in (None), on disk, or, with `download`, from the hub.

    Raises:
        FileNotFoundError: there is nothing where `source` points, or it was never downloaded.
        OSError: the hub cannot be reached or does not have it.
    """
    if source is None:
        return demo_model_path()
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {source}")
    try:
        return Path(
            snapshot_download(
                source, allow_patterns=DEFAULT_ALLOW_PATTERNS, local_files_only=not download
            )
        )
    except LocalEntryNotFoundError:
        if download:
            raise
        message = f"{source} is not on disk; `mlxd pull {source}` downloads it"
        raise FileNotFoundError(message) from None


def context_length_of(config: Mapping[str, Any], limit_tokens: int) -> int:
    """The longest prompt and answer together, in tokens; `limit_tokens` 0 sets no limit."""
    length = int(setting_of(config, "max_position_embeddings") or FALLBACK_CONTEXT_TOKENS)
    return min(length, limit_tokens) if limit_tokens else length


def vocabulary_size_of(config: Mapping[str, Any], tokenizer: TokenizerWrapper) -> int:
    """How many rows the model's embedding has; ids beyond would read past it."""
    return int(setting_of(config, "vocab_size") or len(tokenizer))


def setting_of(config: Mapping[str, Any], key: str) -> Any:
    """A value of config.json, from its text part where there are several parts."""
    return config.get(key) or (config.get("text_config") or {}).get(key)


def stop_tokens_of(path: Path, tokenizer: TokenizerWrapper) -> set[int]:
    """The stop ids that the model's own files name.

    mlx-lm joins config.json, generation_config.json and the tokenizer's end of
    sequence, but lets generation_config.json replace config.json's; both count.
    """
    stop = {int(token) for token in tokenizer.eos_token_ids}
    for name in ("config.json", "generation_config.json"):
        stop |= eos_ids(path / name)
    return stop


def eos_ids(file: Path) -> set[int]:
    """`eos_token_id` of a JSON file, one or several; none where the file or key is missing."""
    if not file.exists():
        return set()
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    match value:
        case None:
            return set()
        case int():
            return {value}
        case _:
            return {int(token) for token in value}


def weight_file_bytes(path: Path, lora_path: str | None) -> int:
    """The size of the weights on disk, those of a LoRA adapter included.

    Raises:
        FileNotFoundError: there are none.
    """
    files = list(path.glob(WEIGHT_FILES))
    if not files:
        raise FileNotFoundError(f"No safetensors found in {path}")
    if lora_path is not None:
        files.append(Path(lora_path) / LORA_WEIGHTS)
    return sum(file.stat().st_size for file in files)
