"""GET /v1/models: what is configured, and what of it is loaded."""

from __future__ import annotations

from typing import Literal

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model. `created` is Unix time in seconds.

    From `loaded` on the fields are not OpenAI's; `context_length` (tokens) and
    `family` are null until the model was loaded once.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlxd"
    loaded: bool
    context_length: int | None = None
    family: str | None = None
    aliases: list[str] = []


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All configured models."""

    object: Literal["list"] = "list"
    data: list[Model]
