"""A model's folder: where it is, and the facts that its files state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS, load_tokenizer

from protocol.model_location import BuiltIn, Folder, HubModel, location_of
from worker.demo import demo_model_path
from worker.folder.context_length import context_tokens_of
from worker.folder.generation_config import read_generation_config
from worker.folder.json_values import parse_token_ids, read_object
from worker.folder.mlx_lm_folder import folder_for_mlx_lm
from worker.folder.vocabularies import describe_difference

WEIGHT_FILES = "model*.safetensors"
# What embedding models have besides the files that mlx-lm reads.
EMBEDDING_PATTERNS = ("*_Dense/model.safetensors", "sentencepiece.bpe.model")
LORA_WEIGHTS_FILE = "adapters.safetensors"


def find_model_folder(source: str | None, *, download: bool, revision: str | None = None) -> Path:
    """The folder of a model: built in (None), on disk, or in the hub's cache.

    With `download` a missing model is downloaded from the hub, at `revision`.

    Raises:
        FileNotFoundError: `source` is a path that does not exist, or a model that was never
            downloaded.
        OSError: the hub cannot be reached or does not have the model.
    """
    match location_of(source):
        case BuiltIn():
            return demo_model_path()
        case Folder(path):
            if not path.exists():
                raise FileNotFoundError(f"there is no folder {source}")
            return path
        case HubModel(id):
            return find_download(id, download=download, revision=revision)


def find_download(id: str, *, download: bool, revision: str | None = None) -> Path:
    """The folder of a model of the hub, which is downloaded if it must be and `download` is set.

    Raises:
        FileNotFoundError: it is not downloaded.
        OSError: the hub cannot be reached or does not have it.
    """
    try:
        return Path(
            snapshot_download(
                id,
                revision=revision,
                allow_patterns=[*DEFAULT_ALLOW_PATTERNS, *EMBEDDING_PATTERNS],
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError:
        if download:
            raise
        command = f"mlxd pull {id}" if revision is None else f"mlxd pull {id} --revision {revision}"
        message = f"{id} is not on disk; `{command}` downloads it"
        raise FileNotFoundError(message) from None


def context_length_of(config: Mapping[str, Any], limit_tokens: int) -> int:
    """The most tokens of a prompt and its answer together; `limit_tokens` 0 sets no limit."""
    length = context_tokens_of(config)
    return min(length, limit_tokens) if limit_tokens else length


def vocabulary_size_of(config: Mapping[str, Any], tokenizer: TokenizerWrapper) -> int:
    """How many rows the model's embedding has; larger token ids would read beyond it."""
    return int(config_value(config, "vocab_size") or len(tokenizer))


def config_value(config: Mapping[str, Any], key: str) -> Any:
    """A value of config.json: at the top level, else in `text_config`, else None."""
    return config.get(key) or (config.get("text_config") or {}).get(key)


def stop_tokens_of(path: Path, tokenizer: TokenizerWrapper) -> set[int]:
    """The stop token ids that the model's files name.

    They are those of config.json, generation_config.json and the tokenizer together. mlx-lm
    alone would let generation_config.json replace those of config.json.
    """
    config, _ = read_object(path / "config.json")
    own = {int(token) for token in tokenizer.eos_token_ids}
    return own | eos_token_ids_of(config) | read_generation_config(path).stop_tokens


def eos_token_ids_of(config: Mapping[str, Any]) -> set[int]:
    """Each `eos_token_id` of a config.json, one or several, also of its `text_config`."""
    places = (config, config.get("text_config") or {})
    return set().union(*(parse_token_ids(place.get("eos_token_id"))[0] for place in places))


@dataclass(frozen=True, slots=True)
class DraftFolder:
    """The folder of a model that drafts for another; `name` is a hub id, or that of the folder."""

    name: str
    path: Path
    file_bytes: int


def find_draft_folder(
    source: str | None, tokenizer: TokenizerWrapper, *, download: bool
) -> DraftFolder | None:
    """The folder of the draft model that is configured for a model with this tokenizer.

    Raises:
        ValueError: it cannot be used, or it has another vocabulary.
    """
    if source is None:
        return None
    location = location_of(source)
    name = location.path.name if isinstance(location, Folder) else source
    try:
        path = find_model_folder(source, download=download)
        with folder_for_mlx_lm(path) as folder:
            other = load_tokenizer(folder)
        file_bytes = weight_file_bytes(path, None)
    except Exception as error:
        # Damaged or unknown files raise many errors.
        raise ValueError(f"its draft_model {name} cannot be read: {error}") from error
    if difference := describe_difference(tokenizer.get_vocab(), other.get_vocab()):
        raise ValueError(f"its draft_model {name} has another vocabulary: {difference}")
    return DraftFolder(name, path, file_bytes)


def weight_file_bytes(path: Path, lora_path: str | None) -> int:
    """The size of the weights on disk, including those of a LoRA adapter.

    Raises:
        FileNotFoundError: the folder has no weights.
    """
    files = list(path.glob(WEIGHT_FILES))
    if not files:
        raise FileNotFoundError(f"No safetensors found in {path}")
    if lora_path is not None:
        files.append(Path(lora_path) / LORA_WEIGHTS_FILE)
    return sum(file.stat().st_size for file in files)
