"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

import datetime as dt

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.config.model_names import ModelNames
from service.errors import InvalidRequest, excerpt
from service.http.anthropic_errors import is_anthropic
from service.http.json_io import json_response
from service.schema.models import AnthropicModel, AnthropicModelList, Model, ModelList
from service.schema.queries import read_number, read_word
from service.security.visibility import visible
from service.supervision.supervisor import Supervisor

MAX_PAGE_MODELS = 1000
LIFECYCLES = ("active", "deprecated", "retired")


class ModelListEndpoint:
    """Lists the configured models and their states."""

    def __init__(self, model_names: ModelNames, supervisor: Supervisor) -> None:
        self._model_names = model_names
        self._supervisor = supervisor

    async def list(self, request: Request) -> Response:
        """All models."""
        models = self._model_names.list_models(self._supervisor.model_states.states)
        if reads_anthropic(request.scope):
            return json_response(to_anthropic_list(models, request))
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


def to_anthropic_list(models: ModelList, request: Request) -> AnthropicModelList:
    """The page of the models that the query asks for; without `limit` it has up to 1,000.

    Raises:
        InvalidRequest: the query is invalid; the error names the parameter.
    """
    limit = read_number(request, "limit", MAX_PAGE_MODELS)
    if not 1 <= limit <= MAX_PAGE_MODELS:
        raise invalid(f"`limit` is not between 1 and {MAX_PAGE_MODELS}.", "limit")
    listed = [to_anthropic(model) for model in models.data] if asks_for_active(request) else []
    after, before = (read_place(request, name, models) for name in ("after_id", "before_id"))
    if after is not None and before is not None:
        raise invalid("`after_id` and `before_id` cannot both be set.", "before_id")
    if before is None:
        rest = listed[0 if after is None else after + 1 :]
        page = rest[:limit]
    else:
        rest = listed[:before]
        page = rest[-limit:]
    ends = (page[0].id, page[-1].id) if page else (None, None)
    return AnthropicModelList(
        data=page, has_more=len(rest) > limit, first_id=ends[0], last_id=ends[1]
    )


def read_place(request: Request, name: str, models: ModelList) -> int | None:
    """The place in the list of the model that the query names; None if it names none.

    Raises:
        InvalidRequest: there is no such model.
    """
    id = read_word(request, name)
    if id is None:
        return None
    places = [place for place, model in enumerate(models.data) if model.id == id]
    if not places:
        raise invalid(f"`{name}`: no model has the id `{excerpt(id, 100)}`.", name)
    return places[0]


def asks_for_active(request: Request) -> bool:
    """Whether a query is for models that are active, as all are.

    Raises:
        InvalidRequest: a lifecycle is unknown.
    """
    query = request.query_params
    words = [*query.getlist("lifecycle"), *query.getlist("lifecycle[]")]
    names = [name for word in words for name in word.split(",")]
    for name in names:
        if name not in LIFECYCLES:
            raise invalid(f"`lifecycle`: `{excerpt(name, 100)}` is not known.", "lifecycle")
    return not names or "active" in names


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for a parameter of the query."""
    return InvalidRequest(message, param=param, code="invalid_value")


def visible_model(model: Model, scope: Scope) -> Model:
    """The model as the caller of the request may see it."""
    if model.reason is None:
        return model
    return msgspec.structs.replace(model, reason=visible(model.reason, scope))
