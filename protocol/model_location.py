"""Where a model's files are: built into the package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATH_PREFIXES = ("/", ".", "~")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The model that is part of the package."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, which need not exist. `~` is expanded; the path may be relative."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub, downloaded or not."""

    id: str


ModelLocation = BuiltIn | Folder | HubModel


def location_of(source: str | None) -> ModelLocation:
    """The location that a model's `source` names; None is the built-in model.

    A source that begins with `/`, `.` or `~` is a folder. Any other source is a folder if it
    exists in the working directory, and else a hub id.

    Raises:
        RuntimeError: the source begins with `~user`, and there is no such user.
    """
    if source is None:
        return BuiltIn()
    if source.startswith(PATH_PREFIXES) or Path(source).exists():
        return Folder(Path(source).expanduser())
    return HubModel(source)
