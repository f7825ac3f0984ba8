"""GET /v1/models: what is configured, and what of it is loaded."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.messages import LoadStatus


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model. `created` is Unix time in seconds.

    From `loaded` on the fields are not OpenAI's; `context_length` (tokens) and
    `family` are null until the model was loaded once. `status` "loading" is told while the
    model waits for memory, too; `reason` says so, or why the last load failed. `loaded_bytes`
    of `size_bytes` are loaded.
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
    family: str | None = None
    capabilities: list[str] = []
    aliases: list[str] = []


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All configured models."""

    object: Literal["list"] = "list"
    data: list[Model]


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of POST /admin/models/{model}/load and /unload: nothing more to say."""

    def check(self) -> None:
        """There is nothing to break."""


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of POST /admin/models/{model}/pin; an empty body pins."""

    pinned: bool = True

    def check(self) -> None:
        """The types say it all."""
