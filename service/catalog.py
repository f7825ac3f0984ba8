"""The models by name: what is configured, what is loaded, and what a request's name means."""

from __future__ import annotations

import time
from collections.abc import Sequence

from protocol.messages import LoadedModel, Ready
from service.errors import ModelNotFound
from service.schema.models import Model, ModelList

DEFAULT_ALIAS = "default"


class Catalog:
    """The configured ids in order; `default` is an alias of the first."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = tuple(ids)
        self._created = int(time.time())

    def resolve(self, name: str) -> str:
        """The id that `name` means.

        Raises:
            ModelNotFound: it is no configured id and no alias.
        """
        if name in self._ids:
            return name
        if name == DEFAULT_ALIAS:
            return self._ids[0]
        raise ModelNotFound(name)

    def list_models(self, ready: Ready | None) -> ModelList:
        """All models; `ready` tells which are loaded."""
        return ModelList(data=[self.describe(id, ready) for id in self._ids])

    def describe(self, name: str, ready: Ready | None) -> Model:
        """One model by id or alias.

        Raises:
            ModelNotFound: there is none of that name.
        """
        id = self.resolve(name)
        loaded = find_loaded(id, ready)
        return Model(
            id=id,
            created=self._created,
            loaded=loaded is not None,
            context_length=loaded.context_length if loaded else None,
            family=loaded.family if loaded else None,
            aliases=[DEFAULT_ALIAS] if id == self._ids[0] else [],
        )


def find_loaded(id: str, ready: Ready | None) -> LoadedModel | None:
    """What the worker said of this model, if it has it loaded."""
    models = ready.models if ready is not None else []
    return next((model for model in models if model.id == id), None)
