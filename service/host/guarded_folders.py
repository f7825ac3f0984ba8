"""The folders that macOS guards: a job of launchd is denied them, without anybody being asked.

The service would exit at its start, and launchd would start it again every ten seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from protocol.model_location import Folder, location_of
from service.config.model_settings import ModelSettings
from service.config.scalars import NOT_PATHS
from service.config.settings import Settings, describe_settings
from service.errors import excerpt
from service.supervision.process import CODE_FOLDER

# In a user's home, with the names that people know them by.
IN_HOME = {
    "Documents": "Documents",
    "Desktop": "Desktop",
    "Downloads": "Downloads",
    "Library/Mobile Documents": "iCloud Drive",
    "Library/CloudStorage": "a folder of a cloud service",
}
OTHER_VOLUMES = "/Volumes"
# The same folders by another path.
DATA_VOLUME = "/System/Volumes/Data"
HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE")


class UsedPath(NamedTuple):
    """A path that the service uses, and the setting that names it."""

    origin: str
    path: Path


def explain_guarded(paths: Iterator[UsedPath], home: Path) -> Iterator[str]:
    """A sentence for each of these paths that macOS guards."""
    for origin, path in paths:
        if (guard := guard_of(path, home)) is not None:
            yield (
                f"{origin}: {excerpt(str(path), 200)} is in {guard}, which macOS lets no job of "
                f"launchd read: move it elsewhere, for example into {home}"
            )


def guard_of(path: Path, home: Path) -> str | None:
    """The guarded folder that has this path, by its name; None if none has it.

    A link in a guarded folder is guarded, and so is what a link elsewhere leads to.
    """
    guards = {home / folder: f"{name} ({home / folder})" for folder, name in IN_HOME.items()}
    absolute = path.expanduser().absolute()
    for guard, name in guards.items():
        if is_within(absolute, guard) or is_within(absolute.resolve(), guard.resolve()):
            return name
    # /Volumes also has a link to the volume that macOS is on.
    return f"another volume ({OTHER_VOLUMES})" if is_on_other_volume(absolute) else None


def is_on_other_volume(path: Path) -> bool:
    """Whether the path leads to a volume that is not that of macOS."""
    return is_within(path.resolve(), Path(OTHER_VOLUMES))


def is_within(path: PurePath, folder: PurePath) -> bool:
    """Whether `path` is the folder or in it; macOS ignores the case of names."""
    names, others = parts_of(path), parts_of(folder)
    return names[: len(others)] == others


def parts_of(path: PurePath) -> list[str]:
    """The names of a path, as macOS compares them."""
    text = str(path)
    if text.casefold().startswith(DATA_VOLUME.casefold() + "/"):
        text = text[len(DATA_VOLUME) :]
    return [name.casefold() for name in PurePath(text).parts]


def used_paths(
    settings: Settings, config: str | None, environ: Mapping[str, str]
) -> Iterator[UsedPath]:
    """The paths that the service uses with these settings; `config` is their file."""
    yield UsedPath("mlxd itself", Path(CODE_FOLDER))
    yield UsedPath("its Python environment", Path(sys.prefix))
    if config:
        yield UsedPath("config", Path(config))
    for name, field in describe_settings().items():
        if field.is_path and (value := getattr(settings, name)) not in NOT_PATHS:
            yield UsedPath(name, Path(value))
    for model in settings.models:
        yield from paths_of_model(model)
    for name in HUB_VARIABLES:
        if environ.get(name):
            yield UsedPath(name, Path(environ[name]))


def paths_of_model(model: ModelSettings) -> Iterator[UsedPath]:
    """The files of one model that are not in the hub's cache."""
    location = location_of(model.source)
    if isinstance(location, Folder):
        yield UsedPath("model", location.path)
    for name, text in (("adapter", model.adapter), ("chat_template", model.chat_template)):
        if text is not None:
            yield UsedPath(name, Path(text))
