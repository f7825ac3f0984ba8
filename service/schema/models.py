"""GET /v1/models and POST /admin/models: the configured models, and commands to load them."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.model_states import LoadStatus
from service.schema.batching import ModelBatching


class DefaultParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What applies to a request that sets none of these. `max_tokens` null is without limit."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model. `created` is Unix time in seconds.

    The fields from `loaded` on are not in OpenAI's API. `context_length` (tokens), and
    `max_model_len`, vLLM's name of it, are null while the model's files are not on disk.
    `family` is null until the model has been loaded once. `status` is "loading" also while
    the model waits for memory; `reason` says so, or why the last load failed. `loaded_bytes` of
    `size_bytes` are loaded. `batching` is null while the model is not loaded.
    `default_parameters` are the configured ones, below them those of the model's
    generation_config.json, below them OpenAI's.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlxd"
    loaded: bool
    status: LoadStatus = "unloaded"
    pinned: bool = False
    size_bytes: int = 0
    loaded_bytes: int = 0
    reason: str | None = None
    context_length: int | None = None
    max_model_len: int | None = None
    family: str | None = None
    capabilities: list[str] = []
    aliases: list[str] = []
    default_parameters: DefaultParameters = DefaultParameters()
    batching: ModelBatching | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All configured models."""

    object: Literal["list"] = "list"
    data: list[Model]


class AnthropicModel(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model, as Anthropic's API describes it. `created_at` is in RFC 3339."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None
    max_tokens: int | None


class AnthropicModelList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the configured models, for requests with `anthropic-version`."""

    data: list[AnthropicModel]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /admin/models/{model}/load and /unload, which has no fields."""

    def check(self) -> None:
        """Do nothing: there are no rules."""


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/models/{model}/pin; an empty body pins the model."""

    pinned: bool = True

    def check(self) -> None:
        """Do nothing: there are no rules beyond the types."""
