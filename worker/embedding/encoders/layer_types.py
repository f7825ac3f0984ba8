"""Which layers of a model see all tokens, and which only those near; and their positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker.embedding.facts import NotAnEmbeddingModel

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def layer_types_of(config: Mapping[str, Any], is_global: Callable[[int], bool]) -> list[str]:
    """The type of each layer, which `is_global` decides where config.json lists none.

    Raises:
        NotAnEmbeddingModel: the list has another length, or other types.
    """
    count = config["num_hidden_layers"]
    types = config.get("layer_types")
    if not isinstance(types, list):
        return [GLOBAL if is_global(index) else LOCAL for index in range(count)]
    if len(types) != count or not set(types) <= {GLOBAL, LOCAL}:
        raise NotAnEmbeddingModel(f"its layer_types are not {count} of {GLOBAL} and {LOCAL}")
    return types


def theta_of(config: Mapping[str, Any], layer_type: str, default: float) -> float:
    """The base of the rotary positions of the layers of this type.

    Raises:
        NotAnEmbeddingModel: they are scaled in a way that is not computed.
    """
    parameters = config.get("rope_parameters")
    own = parameters.get(layer_type) if isinstance(parameters, Mapping) else None
    own = own if isinstance(own, Mapping) else {}
    kind = own.get("rope_type", "default")
    if kind != "default" or config.get("rope_scaling") is not None:
        raise NotAnEmbeddingModel("its rotary positions are scaled, which is not computed here")
    return float(own.get("rope_theta", default))
