"""This rank's part of each layer of a model, by mlx-lm's `shard`."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from worker.folder.json_values import read_object
from worker.models.model_files import config_value
from worker.ranks.parts.refusal import NotSplittable

# The counts of heads, by their names in config.json and in the modules of mlx-lm.
HEAD_COUNTS = ("num_attention_heads", "num_key_value_heads")


def has_tensor_form(model: nn.Module) -> bool:
    """Whether mlx-lm has code to split the layers of this model."""
    return hasattr(model, "shard")


def keep_tensor_part(model: nn.Module, path: Path, group: mx.distributed.Group) -> None:
    """Reduce each layer to this rank's part of it.

    Raises:
        NotSplittable: the sizes do not allow it. Some layers may be reduced.
    """
    size = group.size()
    config, _ = read_object(path / "config.json")
    for name in HEAD_COUNTS:
        count = config_value(config, name)
        if isinstance(count, int) and count % size:
            raise NotSplittable(f"its {name} of {count} cannot be split over {size} ranks")
    try:
        model.shard(group)
    except (ValueError, AssertionError) as error:
        raise NotSplittable(f"it cannot be split over {size} ranks: {error}") from error
