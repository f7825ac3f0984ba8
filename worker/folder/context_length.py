"""How many positions a model has: those of config.json, and what the scaling of RoPE adds.

Whether `max_position_embeddings` is the length before or after the scaling depends on the kind:
YaRN's configurations state the original length beside it, those of Llama 3 and LongRoPE the
scaled one, and linear and dynamic scaling extend what is stated, as in transformers and vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

# For a config.json without a context length.
FALLBACK_CONTEXT_TOKENS = 4096
MAX_CONTEXT_TOKENS = 2**31 - 1
LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "max_seq_length",
    "seq_length",
)
# Where configurations of models with other inputs keep that of their language model.
NESTED_CONFIGS = ("text_config", "llm_config", "language_config")
ROPE_KEYS = ("rope_scaling", "rope_parameters")
YARN = ("yarn", "deepseek_yarn", "telechat3-yarn")
EXTENDING = ("linear", "dynamic")
# Their configurations state the length with linear scaling.
STATES_SCALED_LENGTH = ("gemma3", "gemma3_text")


def context_tokens_of(config: Mapping[str, Any]) -> int:
    """The model's own context length in tokens."""
    for place in _places(config):
        lengths = (place.get(key) for key in LENGTH_KEYS)
        length = next((length for length in lengths if _is_length(length)), None)
        if length is not None:
            scaled = [_scaled(place, length, rope) for rope in _ropes(place, config)]
            return int(min(max([length, *scaled]), MAX_CONTEXT_TOKENS))
    return FALLBACK_CONTEXT_TOKENS


def _scaled(config: Mapping[str, Any], length: int, rope: Mapping[str, Any]) -> float:
    """The length with one scaling of RoPE."""
    kind, factor = rope.get("type") or rope.get("rope_type"), rope.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor >= 1:
        return length
    original = rope.get("original_max_position_embeddings")
    if original is None:
        original = config.get("original_max_position_embeddings")
    if kind in YARN or (kind in EXTENDING and _is_length(original)):
        return factor * (original if _is_length(original) else length)
    if kind in EXTENDING and config.get("model_type") not in STATES_SCALED_LENGTH:
        return factor * length
    return length


def _places(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration, and those of language models in it."""
    yield config
    for key in NESTED_CONFIGS:
        if isinstance(nested := config.get(key), Mapping):
            yield nested


def _ropes(*places: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The scalings of RoPE, of which there may be one for each kind of layer."""
    for place in places:
        for key in ROPE_KEYS:
            if isinstance(rope := place.get(key), Mapping):
                yield rope
                yield from (each for each in rope.values() if isinstance(each, Mapping))


def _is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
