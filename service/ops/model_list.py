"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.config.model_names import ModelNames
from service.http.json_io import json_response
from service.schema.models import Model, ModelList
from service.security.visibility import visible
from service.supervision.supervisor import Supervisor


class ModelListEndpoint:
    """Lists the configured models and their states."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor) -> None:
        self._model_names = model_names
        self._supervisor = supervisor

    async def list(self, request: Request) -> Response:
        """All models."""
        models = self._model_names.list_models(self._supervisor.model_states.states)
        data = [visible_model(model, request.scope) for model in models.data]
        return json_response(ModelList(data=data))

    async def get(self, request: Request) -> Response:
        """One model by its id (which may contain slashes) or one of its aliases."""
        name = request.path_params["model"]
        model = self._model_names.describe(name, self._supervisor.model_states.states)
        return json_response(visible_model(model, request.scope))


def visible_model(model: Model, scope: Scope) -> Model:
    """The model as the caller of the request may see it."""
    if model.reason is None:
        return model
    return msgspec.structs.replace(model, reason=visible(model.reason, scope))
