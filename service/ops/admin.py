"""POST /admin/models/{model}/load, /unload and /pin: operators load, unload and pin models."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from service.config.model_names import ModelNames
from service.errors import WorkerUnavailable
from service.http.json_io import JsonBodies, json_response
from service.schema.models import OrderRequest, PinRequest
from service.supervision.supervisor import Supervisor

OrderT = TypeVar("OrderT", OrderRequest, PinRequest)


class AdminEndpoints:
    """Commands for the worker's model pool. Each responds with the model's new state."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor, bodies: JsonBodies) -> None:
        self._model_names = model_names
        self._supervisor = supervisor
        self._bodies = bodies

    async def load(self, request: Request) -> Response:
        """Load a model, and respond when it is loaded."""
        id = self._find(request)
        await self._read(request, OrderRequest())
        await self._supervisor.model_states.load(id)
        return self._describe(id)

    async def unload(self, request: Request) -> Response:
        """Unload a model that has no requests. The next load reads its files again."""
        id = self._find(request)
        await self._read(request, OrderRequest())
        await self._supervisor.model_states.unload(id)
        return self._describe(id)

    async def pin(self, request: Request) -> Response:
        """Pin a model, so that it is never evicted or unloaded; `{"pinned": false}` unpins it."""
        id = self._find(request)
        body = await self._read(request, PinRequest())
        await self._supervisor.model_states.pin(id, pinned=body.pinned)
        return self._describe(id)

    async def _read(self, request: Request, default: OrderT) -> OrderT:
        """The request's body; `default` if it is empty."""
        if await request.state.request_reader.body():
            return await self._bodies.read(request, type(default))
        return default

    def _find(self, request: Request) -> str:
        """The model's id, checked to be configured while the worker is ready.

        Raises:
            ModelNotFound: the model is not configured.
            WorkerUnavailable: no worker is ready.
        """
        id = self._model_names.resolve(request.path_params["model"])
        if self._supervisor.ready is None:
            status = self._supervisor.status
            raise WorkerUnavailable(f"The service is {status}.", code=status)
        return id

    def _describe(self, id: str) -> Response:
        return json_response(self._model_names.describe(id, self._supervisor.model_states.states))
