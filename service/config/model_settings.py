"""Which models to serve: how they are written, what they are called, where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.messages import ModelSource
from service.config.sampling_defaults import NONE, SamplingDefaults
from service.config.scalars import SettingsError, refuse_unknown
from service.errors import excerpt

DEMO_ID = "mlxd-demo"
RESERVED_ID = "default"


MAX_IDLE_S = 30 * 86400.0

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to serve: `source` is a folder, a hub id, or None for the built-in one.

    `adapter` is a folder with a LoRA adapter, `chat_template` a file of Jinja to use instead
    of the model's own template. A `pinned` model is loaded at the start and never evicted or
    unloaded; one with `preload` is loaded at the start. `idle_s` is how long it stays loaded
    unused, 0 for ever, None as the service's setting has it.
    """

    source: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    id: Name | None = None
    aliases: tuple[Name, ...] = ()
    adapter: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    chat_template: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    context_limit_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    sampling: SamplingDefaults = NONE
    pinned: bool = False
    preload: bool = False
    idle_s: Annotated[float, Meta(ge=0, le=MAX_IDLE_S)] | None = None


ConfiguredModels = Annotated[tuple[ModelSettings, ...], Meta(min_length=1)]
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
    """Models as a file lists them: tables with the fields of `ModelSettings`.

    Raises:
        SettingsError: one cannot be used.
    """
    for table in tables if isinstance(tables, list) else []:
        if isinstance(table, dict):
            refuse_unknown(table, ModelSettings.__struct_fields__, origin)
    try:
        models = msgspec.convert(tables, ConfiguredModels)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}: {excerpt(str(error))}") from None
    located = tuple(_locate(model, origin) for model in models)
    _check_ids([name for m in located for name in (model_id(m), *m.aliases)], origin)
    return located


def to_sources(
    models: Iterable[ModelSettings], idle_unload_s: float
) -> tuple[list[ModelSource], list[str]]:
    """The models as the worker gets them, and the ids of those to load at the start.

    Raises:
        SettingsError: a chat template cannot be read.
    """
    models = list(models)
    sources = [
        ModelSource(
            id=model_id(model),
            source=model.source,
            adapter_path=model.adapter,
            chat_template=_read_template(model),
            context_limit_tokens=model.context_limit_tokens,
            pinned=model.pinned,
            idle_s=idle_unload_s if model.idle_s is None else model.idle_s,
        )
        for model in models
    ]
    begin_with = [
        model_id(model)
        for place, model in enumerate(models)
        if place == 0 or model.pinned or model.preload
    ]
    return sources, begin_with


def _read_template(model: ModelSettings) -> str | None:
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"{model_id(model)}: its chat_template cannot be read: {error}"
        raise SettingsError(f"models: {reason}") from None


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
