"""Which models to serve: how they are written, what they are called, where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from service.errors import excerpt
from service.scalars import SettingsError, refuse_unknown

DEMO_ID = "mlxd-demo"
RESERVED_ID = "default"


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to serve: `source` is a folder, a hub id, or None for the built-in one."""

    source: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


Models = Annotated[tuple[ModelSettings, ...], Meta(min_length=1)]
DEMO = ModelSettings(source=None, id=DEMO_ID)


def model_id(model: ModelSettings) -> str:
    """The id a model is served by: the one configured, its hub id, or its folder's name."""
    if model.id is not None:
        return model.id
    if model.source is None:
        return DEMO_ID
    return Path(model.source).name if _is_folder(model.source) else model.source


def parse_models(words: Iterable[str], origin: str) -> tuple[ModelSettings, ...]:
    """Models written as SOURCE or ID=SOURCE; an `=` after a slash is the folder's own.

    Raises:
        SettingsError: one cannot be used.
    """
    tables = []
    for word in words:
        id, equals, source = word.strip().partition("=")
        named = equals and "/" not in id
        tables.append({"id": id, "source": source} if named else {"source": word.strip()})
    return read_models(tables, origin)


def read_models(tables: object, origin: str) -> tuple[ModelSettings, ...]:
    """Models as a file lists them: tables with `source` and `id`.

    Raises:
        SettingsError: one cannot be used.
    """
    for table in tables if isinstance(tables, list) else []:
        if isinstance(table, dict):
            refuse_unknown(table, ModelSettings.__struct_fields__, origin)
    try:
        models = msgspec.convert(tables, Models)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}: {excerpt(str(error))}") from None
    located = tuple(_locate(model, origin) for model in models)
    _check_ids([model_id(model) for model in located], origin)
    return located


def _locate(model: ModelSettings, origin: str) -> ModelSettings:
    """The model with its folder as an absolute path, and with an id of its own."""
    if model.source is None and model.id is None:
        raise SettingsError(f"{origin}: a model needs a source or an id")
    if model.source is None or not _is_folder(model.source):
        return model
    try:
        folder = Path(os.path.normpath(Path(model.source).expanduser().absolute()))
    except RuntimeError as error:
        raise SettingsError(f"{origin}: {model.source}: {error}") from None
    if not (model.id or folder.name):
        raise SettingsError(f"{origin}: {model.source} has no name: give it an id")
    return msgspec.structs.replace(model, source=str(folder))


def _is_folder(source: str) -> bool:
    """Whether `source` is a folder rather than a hub id."""
    return source.startswith(("/", ".", "~")) or Path(source).exists()


def _check_ids(ids: list[str], origin: str) -> None:
    for id in ids:
        if id == RESERVED_ID:
            raise SettingsError(f"{origin}: the id {RESERVED_ID} always means the first model")
        if not id.isprintable():
            raise SettingsError(f"{origin}: the id {id!r} cannot be printed")
        if ids.count(id) > 1:
            raise SettingsError(f"{origin}: two models have the id {id}: give one another id")
