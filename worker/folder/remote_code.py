"""Python code in a model's folder, which runs only if the model's configuration trusts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from worker.folder.json_values import read_object

SETTING = "trust_remote_code"
# Where transformers reads which code a tokenizer or a configuration has.
AUTO_MAP_FILES = ("config.json", "tokenizer_config.json")
OTHER_REPOSITORY = "--"


class RemoteCodeError(ValueError):
    """A model has code of its own that may not run; the message says why."""


def check_remote_code(path: Path, config: Mapping[str, Any], *, trusted: bool) -> None:
    """Refuse code that may not run.

    Without trust that is a model's own architecture; transformers refuses a tokenizer's. With it,
    code from outside of the folder, which nobody has pinned.

    Raises:
        RemoteCodeError: it has such code.
    """
    model_file = config.get("model_file")
    if model_file is not None and not trusted:
        raise needs_trust(f"its architecture is code of its own ({str(model_file)[:100]})")
    if model_file is not None and not is_inside(model_file):
        raise RemoteCodeError(f"its model_file {str(model_file)[:100]!r} is outside its folder")
    for reference in _references(path) if trusted else ():
        if OTHER_REPOSITORY in reference:
            raise RemoteCodeError(f"its code {reference[:100]!r} is in another repository")


def needs_trust(reason: str) -> RemoteCodeError:
    """The error of a model that cannot be used without its code."""
    return RemoteCodeError(f"{reason}, which runs only with {SETTING} = true for the model")


def has_tokenizer_code(path: Path) -> bool:
    """Whether a folder has code for its tokenizer."""
    return any(True for _ in _references(path))


def is_inside(name: object) -> bool:
    """Whether a file's name is a path inside its folder."""
    if not isinstance(name, str) or not name:
        return False
    parts = PurePosixPath(name)
    return not parts.is_absolute() and ".." not in parts.parts


def _references(path: Path) -> Iterator[str]:
    """The classes that `auto_map` names, as `[repository--]module.Class`."""
    for name in AUTO_MAP_FILES:
        auto_map = read_object(path / name)[0].get("auto_map")
        values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
        for value in values:
            each = value if isinstance(value, list) else [value]
            yield from (reference for reference in each if isinstance(reference, str))
