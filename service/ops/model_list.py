"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.config.model_names import ModelNames
from service.http.json_io import json_response
from service.supervision.supervisor import Supervisor


class ModelListEndpoint:
    """Tells what is configured and what of it is loaded."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor) -> None:
        self._catalog = model_names
        self._supervisor = supervisor

    async def list(self, request: Request) -> Response:
        """All models."""
        return json_response(self._catalog.list_models(self._supervisor.model_states.states))

    async def get(self, request: Request) -> Response:
        """One model by id (which may hold slashes) or alias."""
        name = request.path_params["model"]
        return json_response(self._catalog.describe(name, self._supervisor.model_states.states))
