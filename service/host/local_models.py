"""Finds missing, damaged and truncated files of a model without loading it.

Source of the weight files' format: the safetensors README (a length of 8 bytes, little endian,
a JSON header, then the data).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from protocol.model_location import BuiltIn, Folder, HubModel, location_of
from service.supervision.process import CODE_FOLDER

DEMO_FOLDER = Path(CODE_FOLDER) / "worker" / "demo" / "model"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tekken.json", "tokenizer.model", "tokenizer_config.json")
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100 * 2**20


class ModelFiles(NamedTuple):
    """A model's folder, size and problems. `folder` is None if it must still be downloaded."""

    folder: Path | None
    weight_bytes: int
    problems: list[str]


def inspect_model(source: str | None, revision: str | None = None) -> ModelFiles:
    """The files of a model: the built-in one (None), a folder, or a model of the hub."""
    folder = find_folder(source, revision)
    if folder is None:
        return ModelFiles(None, 0, [])
    if not folder.is_dir():
        return ModelFiles(folder, 0, [f"there is no folder {folder}"])
    weights = sorted(folder.glob("*.safetensors"))
    problems = [*check_config(folder), *check_index(folder), *check_weights(weights)]
    if not any((folder / name).exists() for name in TOKENIZERS):
        problems.append("it has no tokenizer")
    return ModelFiles(folder, sum(path.stat().st_size for path in weights), problems)


def find_folder(source: str | None, revision: str | None = None) -> Path | None:
    """The folder of a model; None for a model of the hub that is not downloaded."""
    match location_of(source):
        case BuiltIn():
            return DEMO_FOLDER
        case Folder(path):
            return path
        case HubModel(id):
            return find_download(id, revision)


def find_download(id: str, revision: str | None = None) -> Path | None:
    """The folder of a downloaded model; a path that does not exist if `id` is not a hub id."""
    # Imported here because nothing else of the service needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        return Path(id)


def check_config(folder: Path) -> Iterator[str]:
    """Problems of config.json."""
    config = read_object(folder / "config.json")
    if config is None:
        yield "config.json is missing or not a JSON object"
    elif not config.get("model_type"):
        yield "config.json has no model_type"


def check_index(folder: Path) -> Iterator[str]:
    """Problems of the index of the weight files, if the model has one."""
    if not (folder / INDEX).exists():
        return
    weight_map = (read_object(folder / INDEX) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        yield f"{INDEX} has no weight_map"
        return
    for name in sorted({str(name) for name in weight_map.values()}):
        if not (folder / name).exists():
            yield f"{name} is missing"


def check_weights(files: list[Path]) -> Iterator[str]:
    """Problems of the weight files."""
    if not files:
        yield "there are no weights (*.safetensors)"
    for path in files:
        if problem := check_safetensors(path):
            yield f"{path.name} {problem}"


def check_safetensors(path: Path) -> str | None:
    """The problem of one weight file; None if it is whole."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                return "is not a safetensors file"
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError, LookupError):
        return "has a damaged header"
    expected = LENGTH_BYTES + length + end
    size = path.stat().st_size
    return None if size == expected else f"has {size} bytes, and should have {expected}"


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing or contains no JSON object."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
