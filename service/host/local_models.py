"""A model's files, looked at without loading them: what is missing, and what is cut short.

Source of the weights' format: the safetensors README (a length of 8 bytes, little endian, a
header of JSON, then the data).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from service.supervision.process import CODE_FOLDER

DEMO_FOLDER = Path(CODE_FOLDER) / "worker" / "demo" / "model"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100 * 2**20


class ModelFiles(NamedTuple):
    """What was found. `folder` is None for a model of the hub that is not downloaded."""

    folder: Path | None
    weight_bytes: int
    wrong: list[str]


def look_at(source: str | None) -> ModelFiles:
    """The files of a model: the built-in one (None), in a folder, or downloaded from the hub."""
    folder = find(source)
    if folder is None:
        return ModelFiles(None, 0, [])
    if not folder.is_dir():
        return ModelFiles(folder, 0, [f"there is no folder {folder}"])
    weights = sorted(folder.glob("*.safetensors"))
    wrong = [*check_config(folder), *check_index(folder), *check_weights(weights)]
    if not any((folder / name).exists() for name in TOKENIZERS):
        wrong.append("it has no tokenizer")
    return ModelFiles(folder, sum(path.stat().st_size for path in weights), wrong)


def find(source: str | None) -> Path | None:
    """Where the files are; None where the hub's have not been downloaded."""
    if source is None:
        return DEMO_FOLDER
    if source.startswith(("/", ".", "~")) or Path(source).exists():
        return Path(source).expanduser()
    # Imported here: nothing else of the service needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        return Path(source)


def check_config(folder: Path) -> Iterator[str]:
    """What is wrong with config.json."""
    config = read_object(folder / "config.json")
    if config is None:
        yield "config.json is missing, or no object of JSON"
    elif not config.get("model_type"):
        yield "config.json names no model_type"


def check_index(folder: Path) -> Iterator[str]:
    """Which files the index of several names, and are not there."""
    if not (folder / INDEX).exists():
        return
    places = (read_object(folder / INDEX) or {}).get("weight_map")
    if not isinstance(places, dict):
        yield f"{INDEX} has no weight_map"
        return
    for name in sorted({str(place) for place in places.values()}):
        if not (folder / name).exists():
            yield f"{name} is missing"


def check_weights(files: list[Path]) -> Iterator[str]:
    """Which files of weights are none, or cut short."""
    if not files:
        yield "there are no weights (*.safetensors)"
    for path in files:
        if reason := check_safetensors(path):
            yield f"{path.name} {reason}"


def check_safetensors(path: Path) -> str | None:
    """What is wrong with one file of weights."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                return "is no file of safetensors"
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError, LookupError):
        return "has a damaged header"
    expected = LENGTH_BYTES + length + end
    found = path.stat().st_size
    return None if found == expected else f"has {found} bytes, and should have {expected}"


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a file of JSON; None where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
