"""Resolves the model names of requests to configured models, and lists the models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from protocol.model_states import ModelState
from service.config.model_settings import RESERVED_ID, ModelKind, ModelSettings, model_id
from service.config.sampling_defaults import SamplingDefaults, combine
from service.errors import InvalidRequest, ModelNotFound
from service.schema.batching import describe_batching
from service.schema.models import Model, ModelList

# The end of an alias that stands for all names with the same beginning.
ANY = "*"
# What a model is asked for that is of another kind.
OTHER_KIND: Mapping[ModelKind, str] = {
    "generation": "The model `{id}` generates no text: {own}.",
    "embedding": "The model `{id}` has no embeddings: {own}. Configure an embedding model with "
    'kind = "embedding".',
    "rerank": 'The model `{id}` does not rerank: {own}. Configure a reranker with kind = "rerank".',
}
# Of a model that was not loaded yet.
CAPABILITIES: Mapping[ModelKind, list[str]] = {
    "generation": [],
    "embedding": ["embeddings"],
    "rerank": ["rerank"],
}
OWN_USE: Mapping[ModelKind, str] = {
    "generation": "it generates text",
    "embedding": "it is for /v1/embeddings",
    "rerank": "it is for /v1/rerank",
}


class ModelNames:
    """The configured models in order, with their aliases.

    `default` is an alias of the first; in a request it is the first of the kind that it needs.

    An alias that ends in `*` is every name that begins so. A name that is configured as it is
    comes first, then the longest of these beginnings.
    """

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._ids = tuple(model_id(model) for model in models)
        self._defaults = {model_id(model): model.sampling for model in models}
        self._aliases = {model_id(model): list(model.aliases) for model in models}
        self._aliases[self._ids[0]].append(RESERVED_ID)
        self._id_of = {alias: id for id, names in self._aliases.items() for alias in names}
        patterns = [name for name in self._id_of if name.endswith(ANY)]
        self._beginnings = sorted((name[: -len(ANY)] for name in patterns), key=len, reverse=True)
        self._kinds = {model_id(model): model.kind for model in models}
        self._created = int(time.time())

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the configured models."""
        return self._ids

    def kind(self, id: str) -> ModelKind:
        """What a configured model is for."""
        return self._kinds[id]

    def resolve(self, name: str | None, kind: ModelKind | None = None) -> str:
        """The id of the model `name`; without a name, or for `default`, the first of this `kind`.

        Raises:
            ModelNotFound: `name` is neither a configured id nor an alias.
            InvalidRequest: the model is of another kind than `kind`.
        """
        if name is None or name == RESERVED_ID:
            of_kind = (id for id in self._ids if kind in (None, self._kinds[id]))
            id = next(of_kind, self._ids[0])
        else:
            id = self._find(name)
        if kind is not None and kind != self._kinds[id]:
            message = OTHER_KIND[kind].format(id=id, own=OWN_USE[self._kinds[id]])
            raise InvalidRequest(message, param="model", code="model_not_supported")
        return id

    def _find(self, name: str) -> str:
        if name in self._ids:
            return name
        if name in self._id_of:
            return self._id_of[name]
        for beginning in self._beginnings:
            if name.startswith(beginning):
                return self._id_of[beginning + ANY]
        raise ModelNotFound(name)

    def defaults(self, id: str) -> SamplingDefaults:
        """The default parameters of the model's requests."""
        return self._defaults[id]

    def list_models(self, states: Sequence[ModelState]) -> ModelList:
        """All configured models, with their `states`."""
        return ModelList(data=[self.describe(id, states) for id in self._ids])

    def describe(self, name: str, states: Sequence[ModelState]) -> Model:
        """One model by id or alias.

        Raises:
            ModelNotFound: no model has this name.
        """
        id = self.resolve(name)
        state = next((s for s in states if s.id == id), ModelState(id, "unloaded"))
        context_length = state.info.context_length if state.info else state.context_length
        return Model(
            id=id,
            created=self._created,
            loaded=state.status == "loaded",
            status=state.status,
            pinned=state.pinned,
            size_bytes=state.bytes,
            loaded_bytes=state.done_bytes,
            reason=state.reason,
            context_length=context_length,
            max_model_len=context_length,
            family=state.info.family if state.info else None,
            capabilities=state.info.capabilities if state.info else CAPABILITIES[self._kinds[id]],
            aliases=self._aliases[id],
            default_parameters=combine(self._defaults[id], state.defaults),
            batching=describe_batching(state.rules),
        )
