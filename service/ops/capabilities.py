"""GET /v1/capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.model_states import ModelState
from service.config.model_names import ModelNames
from service.config.model_settings import ModelKind
from service.http.json_io import json_response
from service.ops.settings_in_force import SettingsReport
from service.schema.capabilities import CapabilitiesList, MaxTokensRule, describe_capabilities
from service.security.visibility import Visibility, visibility_of, visible
from service.supervision.supervisor import Supervisor


class CapabilitiesEndpoint:
    """Lists how each model handles each parameter, and the settings in force.

    `endpoints` are the structs of requests by path, for each kind of model; `kv_quantisation`
    is what is set for each model.
    """

    def __init__(
        self,
        model_names: ModelNames,
        supervisor: Supervisor,
        *,
        kv_quantisation: Mapping[str, str],
        softened: AbstractSet[str],
        strict_max_tokens: bool,
        endpoints: Mapping[ModelKind, Mapping[str, type[msgspec.Struct]]],
        settings: SettingsReport,
    ) -> None:
        self._model_names = model_names
        self._supervisor = supervisor
        self._kv_quantisation = kv_quantisation
        self._softened = softened
        self._endpoints = endpoints
        self._settings = settings
        self._max_tokens_rule: MaxTokensRule = "strict" if strict_max_tokens else "ceiling"

    async def list(self, request: Request) -> Response:
        """All models, in the order of the configuration."""
        states = {state.id: state for state in self._supervisor.model_states.states}
        configured = [states.get(id, ModelState(id, "unloaded")) for id in self._model_names.ids]
        data = [
            describe_capabilities(
                state,
                self._endpoints[self._model_names.kind(state.id)],
                self._kv_quantisation[state.id],
                self._softened,
                self._max_tokens_rule,
            )
            for state in configured
        ]
        is_shown = visibility_of(request.scope) is not Visibility.STATUS
        show = partial(visible, scope=request.scope)
        settings = self._settings.report(show) if is_shown else None
        return json_response(CapabilitiesList(data=data, settings=settings))
