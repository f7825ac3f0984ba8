"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

import datetime as dt

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.config.model_names import ModelNames
from service.http.anthropic_errors import is_anthropic
from service.http.json_io import json_response
from service.schema.models import AnthropicModel, AnthropicModelList, Model, ModelList
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
        if reads_anthropic(request.scope):
            return json_response(to_anthropic_list(models))
        data = [visible_model(model, request.scope) for model in models.data]
        return json_response(ModelList(data=data))

    async def get(self, request: Request) -> Response:
        """One model by its id (which may contain slashes) or one of its aliases."""
        name = request.path_params["model"]
        model = self._model_names.describe(name, self._supervisor.model_states.states)
        if reads_anthropic(request.scope):
            return json_response(to_anthropic(model))
        return json_response(visible_model(model, request.scope))


def reads_anthropic(scope: Scope) -> bool:
    """Whether the client is one of Anthropic's API."""
    return is_anthropic(scope["path"], scope["headers"])


def to_anthropic(model: Model) -> AnthropicModel:
    """The model as Anthropic's API describes it."""
    return AnthropicModel(
        id=model.id,
        display_name=model.id,
        created_at=dt.datetime.fromtimestamp(model.created, dt.UTC).isoformat(),
        max_input_tokens=model.context_length,
        max_tokens=model.context_length,
    )


def to_anthropic_list(models: ModelList) -> AnthropicModelList:
    """All models on one page."""
    data = [to_anthropic(model) for model in models.data]
    # A service has at least one model.
    return AnthropicModelList(data=data, first_id=data[0].id, last_id=data[-1].id)


def visible_model(model: Model, scope: Scope) -> Model:
    """The model as the caller of the request may see it."""
    if model.reason is None:
        return model
    return msgspec.structs.replace(model, reason=visible(model.reason, scope))
