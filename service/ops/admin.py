"""POST /admin/models/{model}/load, /unload and /pin: what is loaded, in an operator's hands."""

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
    """Orders to the worker's pool; each answers with the model as it is afterwards."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor, bodies: JsonBodies) -> None:
        self._catalog = model_names
        self._supervisor = supervisor
        self._bodies = bodies

    async def load(self, request: Request) -> Response:
        """Load a model, and answer when it is loaded."""
        id = self._find(request)
        await self._read(request, OrderRequest())
        await self._supervisor.model_states.load(id)
        return self._describe(id)

    async def unload(self, request: Request) -> Response:
        """Unload a model that has no requests; what is on disk is read when it is loaded again."""
        id = self._find(request)
        await self._read(request, OrderRequest())
        await self._supervisor.model_states.unload(id)
        return self._describe(id)

    async def pin(self, request: Request) -> Response:
        """Keep a model from being evicted and unloaded; with `{"pinned": false}`, no more."""
        id = self._find(request)
        asked = await self._read(request, PinRequest())
        await self._supervisor.model_states.pin(id, pinned=asked.pinned)
        return self._describe(id)

    async def _read(self, request: Request, default: OrderT) -> OrderT:
        """What was asked; an empty body is the default."""
        if await request.state.request_reader.body():
            return await self._bodies.read(request, type(default))
        return default

    def _find(self, request: Request) -> str:
        """The model's id, at a worker that takes orders.

        Raises:
            ModelNotFound: it is not configured.
            WorkerUnavailable: there is no worker that is ready.
        """
        id = self._catalog.resolve(request.path_params["model"])
        if self._supervisor.ready is None:
            status = self._supervisor.status
            raise WorkerUnavailable(f"The service is {status}.", code=status)
        return id

    def _describe(self, id: str) -> Response:
        return json_response(self._catalog.describe(id, self._supervisor.model_states.states))
