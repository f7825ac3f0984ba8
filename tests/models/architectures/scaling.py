"""Tiny models with more layers or with other counts of heads, for several ranks."""

from __future__ import annotations

from typing import Any, TypeGuard

from tests.models.architectures.sizes import Config

# What three ranks can divide, by what two can.
IN_THREE: dict[str, dict[int, int]] = {
    "hidden_size": {64: 96},
    "intermediate_size": {128: 192},
    "dense_intermediate_size": {128: 192},
    "moe_intermediate_size": {32: 48},
    "shared_expert_intermediate_size": {32: 48},
    "shared_intermediate_size": {32: 48},
    "num_attention_heads": {4: 6},
    "num_key_value_heads": {2: 3, 4: 6},
    "linear_num_value_heads": {4: 6},
    "linear_num_key_heads": {4: 6},
    "index_n_heads": {2: 3, 4: 6},
}
# Kimi's lists of the layers of a kind.
NUMBERED = ("kda_layers", "full_attn_layers")


def deepen(config: Config, layers: int) -> Config:
    """A configuration with at least so many layers; what it lists for each layer is repeated."""
    deeper = {
        key: deepen(value, layers) if is_config(value) else value for key, value in config.items()
    }
    count = deeper.get("num_hidden_layers")
    if not isinstance(count, int) or count >= layers:
        return deeper
    repeated: Config = {
        key: (value * layers)[:layers]
        for key, value in deeper.items()
        if isinstance(value, list) and len(value) == count
    }
    if is_config(kinds := deeper.get("linear_attn_config")):
        repeated["linear_attn_config"] = {
            key: number_on(value, count, layers) if key in NUMBERED else value
            for key, value in kinds.items()
        }
    return {**deeper, **repeated, "num_hidden_layers": layers}


def number_on(numbers: list[int], count: int, layers: int) -> list[int]:
    """The numbers of layers of a kind, from 1, which go on as among the first `count` layers."""
    return [number for number in range(1, layers + 1) if (number - 1) % count + 1 in numbers]


def divide_in_three(config: Config) -> Config:
    """A configuration whose heads and widths three ranks can divide."""
    return {
        key: divide_in_three(value) if is_config(value) else to_three(key, value)
        for key, value in config.items()
    }


def is_config(value: Any) -> TypeGuard[Config]:
    """Whether this is a configuration within another."""
    return isinstance(value, dict)


def to_three(name: str, value: Any) -> Any:
    """A size that can be divided by three, where the size of this name must be."""
    return IN_THREE.get(name, {}).get(value, value) if isinstance(value, int) else value
