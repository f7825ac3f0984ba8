"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.config.model_names import ModelNames
from service.http.json_io import json_response
from service.supervision.supervisor import Supervisor


class ModelListEndpoint:
    """Lists the configured models and their states."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor) -> None:
        self._model_names = model_names
        self._supervisor = supervisor

    async def list(self, request: Request) -> Response:
        """All models."""
        return json_response(self._model_names.list_models(self._supervisor.model_states.states))

    async def get(self, request: Request) -> Response:
        """One model by its id (which may contain slashes) or one of its aliases."""
        name = request.path_params["model"]
        return json_response(self._model_names.describe(name, self._supervisor.model_states.states))
