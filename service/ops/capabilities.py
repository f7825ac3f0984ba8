"""GET /v1/capabilities."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from protocol.messages import ModelState
from service.config.model_names import ModelNames
from service.http.json_io import json_response
from service.schema.capabilities import CapabilitiesList, describe_capabilities
from service.supervision.supervisor import Supervisor


class CapabilitiesEndpoint:
    """Tells what is honoured, model by model."""

    def __init__(
        self, model_names: ModelNames, supervisor: Supervisor, kv_quantisation: str
    ) -> None:
        self._catalog = model_names
        self._supervisor = supervisor
        self._kv_quantisation = kv_quantisation

    async def list(self, request: Request) -> Response:
        """All models, in the order in which they are configured."""
        states = {state.id: state for state in self._supervisor.model_states.states}
        known = [states.get(id, ModelState(id, "unloaded")) for id in self._catalog.ids]
        told = [describe_capabilities(state, self._kv_quantisation) for state in known]
        return json_response(CapabilitiesList(data=told))
