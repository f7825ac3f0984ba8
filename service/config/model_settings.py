"""The models to serve: their settings, ids and sources."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from protocol.batching import SpeculationMode
from protocol.embedding import EmbeddingSource, Pooling
from protocol.messages import ModelSource
from protocol.model_location import BuiltIn, Folder, HubModel, location_of
from protocol.quantisation import KVBits
from service.config.sampling_defaults import NO_DEFAULTS, SamplingDefaults
from service.config.scalars import (
    SettingsError,
    expand_home,
    refuse_control_characters,
    refuse_unknown,
)
from service.errors import excerpt

DEMO_ID = "mlxd-demo"
RESERVED_ID = "default"

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_IDLE_S = 30 * 86400.0

ModelKind = Literal["generation", "embedding", "rerank"]
MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
KVQuantisation = Literal["off", "8bit", "4bit"]
KV_BITS: dict[KVQuantisation, KVBits] = {"off": 0, "8bit": 8, "4bit": 4}
Name = Annotated[str, Meta(min_length=1, max_length=200)]
SpeculationSetting = Annotated[
    SpeculationMode,
    Meta(
        description="Drafts of the next tokens, from a request's prediction and from what the text "
        "repeats, are verified several in one pass. auto: where a model's check finds that this "
        "changes no answer; on: also where rounding may; off: never."
    ),
]


class EmbeddingPrompts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is put before the texts of requests with an `input_type`."""

    query: str = ""
    document: str = ""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to serve.

    - `source`: a folder, a hub id, or None for the built-in model.
    - `aliases`: further names in requests; one that ends in `*` is every name that begins so.
    - `adapter`: a folder with a LoRA adapter.
    - `chat_template`: a Jinja file that replaces the model's own template.
    - `pinned`: the model is loaded at the start and is never evicted or unloaded.
    - `preload`: the model is loaded at the start.
    - `idle_s`: how long an unused model stays loaded; 0 is without limit, None is the
      service's setting.
    - `generation_config`: its generation_config.json sets the sampling that neither request
      nor `sampling` sets.
    - `revision`: a branch, a tag or a commit of a hub model.
    - `trust_remote_code`: Python code in its folder runs, with all rights of the service. A
      hub model needs a commit as its `revision`, and is never downloaded by the service.
    - `speculation`: whether drafts are verified; None is the service's setting.
    - `kv_quantisation`: of its keys and values; None is the service's setting.
    - `draft_model`: a smaller model with the same vocabulary, a folder or a hub id, that drafts its
      tokens; None is the service's setting, off is none.
    - `kind`: an embedding model serves /v1/embeddings, a reranker /v1/rerank; neither generates.
      The other settings of an embedding model are those of its folder unless set: `pooling` (how
      a text's vector is made of its tokens'), `normalise` (to the length 1), `dimensions` (the
      shorter lengths that its vectors may be cut to) and `prompts`.
    """

    source: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    id: Name | None = None
    aliases: tuple[Name, ...] = ()
    adapter: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    chat_template: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    context_limit_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    sampling: SamplingDefaults = NO_DEFAULTS
    pinned: bool = False
    preload: bool = False
    idle_s: Annotated[float, Meta(ge=0, le=MAX_IDLE_S)] | None = None
    generation_config: bool = True
    revision: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    trust_remote_code: bool = False
    speculation: SpeculationMode | None = None
    kv_quantisation: KVQuantisation | None = None
    draft_model: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    kind: ModelKind = "generation"
    pooling: Pooling | None = None
    normalise: bool | None = None
    dimensions: tuple[Annotated[int, Meta(ge=1)], ...] | None = None
    prompts: EmbeddingPrompts | None = None


# The settings of embedding models alone, and those of models that generate.
EMBEDDING_SETTINGS = ("pooling", "normalise", "dimensions", "prompts")
GENERATION_SETTINGS = (
    "adapter",
    "chat_template",
    "sampling",
    "generation_config",
    "speculation",
    "kv_quantisation",
    "draft_model",
)
NO_DRAFT_MODEL = "off"

ConfiguredModels = Annotated[tuple[ModelSettings, ...], Meta(min_length=1)]
DEMO = ModelSettings(source=None, id=DEMO_ID)


def model_id(model: ModelSettings) -> str:
    """The id of a model: the configured one, else its hub id or its folder's name."""
    if model.id is not None:
        return model.id
    match location_of(model.source):
        case BuiltIn():
            return DEMO_ID
        case Folder(path):
            return path.name
        case HubModel(id):
            return id


def parse_models(words: Iterable[str], origin: str) -> tuple[ModelSettings, ...]:
    """Parse models written as SOURCE or ID=SOURCE; an `=` after a slash belongs to the folder.

    Raises:
        SettingsError: a model is invalid.
    """
    tables = []
    for word in words:
        id, equals, source = word.strip().partition("=")
        has_id = equals and "/" not in id
        tables.append({"id": id, "source": source} if has_id else {"source": word.strip()})
    return read_models(tables, origin)


def read_models(tables: object, origin: str) -> tuple[ModelSettings, ...]:
    """Convert the models of a file: tables with the fields of `ModelSettings`.

    Raises:
        SettingsError: a model is invalid.
    """
    for table in tables if isinstance(tables, list) else []:
        if isinstance(table, dict):
            refuse_unknown(table, ModelSettings.__struct_fields__, origin)
    refuse_control_characters(tables, origin)
    try:
        models = msgspec.convert(tables, ConfiguredModels)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}: {excerpt(str(error))}") from None
    located = tuple(_locate(model, origin) for model in models)
    for model in located:
        _check_revision(model, origin)
        _check_kind(model, origin)
    _check_ids([name for m in located for name in (model_id(m), *m.aliases)], origin)
    return located


def to_sources(
    models: Iterable[ModelSettings],
    idle_unload_s: float,
    speculation: SpeculationMode = "off",
    kv_quantisation: KVQuantisation = "off",
    draft_model: str = "",
) -> tuple[list[ModelSource], list[str]]:
    """The models for the worker's `Configure`, and the ids of those to load at the start.

    The other settings are those of models without their own.

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
            generation_config=model.generation_config,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            embedding=_to_embedding_source(model),
            speculation=model.speculation or speculation,
            kv_bits=KV_BITS[quantisation_for(model, kv_quantisation)],
            draft_model=draft_model_for(model, draft_model),
        )
        for model in models
    ]
    preload = [
        model_id(model)
        for index, model in enumerate(models)
        if index == 0 or model.pinned or model.preload
    ]
    return sources, preload


def draft_model_for(model: ModelSettings, default: str) -> str | None:
    """The model that drafts for this one, with a folder's path made absolute; None for none.

    Raises:
        SettingsError: its path begins with the home of a user who does not exist.
    """
    source = model.draft_model or default
    if model.kind != "generation" or source in ("", NO_DRAFT_MODEL):
        return None
    try:
        location = location_of(source)
    except RuntimeError as error:
        raise SettingsError(f"draft_model: {source}: {error}") from None
    return os.path.normpath(location.path.absolute()) if isinstance(location, Folder) else source


def quantisation_for(model: ModelSettings, default: KVQuantisation) -> KVQuantisation:
    """The quantisation that is asked for a model's keys and values."""
    if model.kind != "generation":
        return "off"
    return default if model.kv_quantisation is None else model.kv_quantisation


def quantisations_of(
    models: Iterable[ModelSettings], default: KVQuantisation
) -> dict[str, KVQuantisation]:
    """What is asked for each model, by its id."""
    return {model_id(model): quantisation_for(model, default) for model in models}


def _read_template(model: ModelSettings) -> str | None:
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"{model_id(model)}: its chat_template cannot be read: {error}"
        raise SettingsError(f"models: {reason}") from None


def _locate(model: ModelSettings, origin: str) -> ModelSettings:
    """Check that the model has an id, and make the path of its folder absolute."""
    if model.source is None and model.id is None:
        raise SettingsError(f"{origin}: a model needs a source or an id")
    if model.adapter is not None:
        adapter = expand_home(model.adapter, f"{origin}: adapter")
        model = msgspec.structs.replace(model, adapter=adapter)
    try:
        location = location_of(model.source)
    except RuntimeError as error:
        raise SettingsError(f"{origin}: {model.source}: {error}") from None
    if not isinstance(location, Folder):
        return model
    folder = Path(os.path.normpath(location.path.absolute()))
    if not (model.id or folder.name):
        raise SettingsError(f"{origin}: {model.source} has no name: give it an id")
    return msgspec.structs.replace(model, source=str(folder))


def _check_revision(model: ModelSettings, origin: str) -> None:
    """Check that code from the hub is trusted at one commit only."""
    on_hub = isinstance(location_of(model.source), HubModel)
    if model.revision is not None and not on_hub:
        raise SettingsError(f"{origin}: {model_id(model)} has a revision, but is not on the hub")
    if on_hub and model.trust_remote_code and not COMMIT.fullmatch(model.revision or ""):
        raise SettingsError(
            f"{origin}: {model_id(model)}: trust_remote_code needs a commit as revision "
            "(40 hexadecimal digits)"
        )


def _check_kind(model: ModelSettings, origin: str) -> None:
    """Check that a model has no settings of another kind."""
    others: tuple[str, ...] = GENERATION_SETTINGS
    if model.kind == "generation":
        others = EMBEDDING_SETTINGS
    elif model.kind == "rerank":
        others = (*GENERATION_SETTINGS, *EMBEDDING_SETTINGS)
    for name in others:
        if getattr(model, name) != getattr(DEMO, name):
            reason = f'{name} has no effect on a model of kind = "{model.kind}"'
            raise SettingsError(f"{origin}: {model_id(model)}: {reason}")


def _to_embedding_source(model: ModelSettings) -> EmbeddingSource | None:
    """What the worker needs to know of an embedding model or a reranker."""
    if model.kind == "generation":
        return None
    return EmbeddingSource(
        kind=model.kind,
        pooling=model.pooling,
        normalise=model.normalise,
        matryoshka=None if model.dimensions is None else sorted(model.dimensions),
        prompts=None if model.prompts is None else msgspec.structs.asdict(model.prompts),
    )


def pull_command(model: ModelSettings) -> str:
    """The command that downloads a hub model."""
    revision = "" if model.revision is None else f" --revision {model.revision}"
    return f"mlxd pull {model.source}{revision}"


def trusted_ids(models: Iterable[ModelSettings]) -> list[str]:
    """The ids of the models whose own code runs."""
    return [model_id(model) for model in models if model.trust_remote_code]


def _check_ids(ids: list[str], origin: str) -> None:
    for id in ids:
        if id == RESERVED_ID:
            raise SettingsError(f"{origin}: the id {RESERVED_ID} is reserved for the first model")
        if not id.isprintable():
            raise SettingsError(f"{origin}: the id {id!r} is not printable")
        if ids.count(id) > 1:
            raise SettingsError(f"{origin}: two models have the id {id}: give one another id")
