"""Splits a model over the ranks of a group, by mlx-lm's own code for each family."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from worker.folder.json_values import read_object
from worker.models.model_files import config_value
from worker.models.weight_loader import build_modules

# The counts of heads, by their names in config.json and in the modules of mlx-lm.
HEAD_COUNTS = ("num_attention_heads", "num_key_value_heads")


class NotSplittable(ValueError):
    """A model that cannot be computed by so many ranks; the message says why."""


def build_part(path: Path, group: mx.distributed.Group, *, trusted: bool) -> nn.Module:
    """The model of a folder, with this rank's part of each layer's weights, read lazily.

    Raises:
        NotSplittable: mlx-lm has no code for that, or the sizes do not allow it.
        Exception: as from `build_modules`.
    """
    model = build_modules(path, trusted=trusted)
    size = group.size()
    config, _ = read_object(path / "config.json")
    split = getattr(model, "shard", None)
    if split is None:
        raise NotSplittable(
            f"mlx-lm cannot split {type(model).__module__.rpartition('.')[2]} over {size} ranks: "
            "it has no tensor-parallel form"
        )
    for name in HEAD_COUNTS:
        count = config_value(config, name)
        if isinstance(count, int) and count % size:
            raise NotSplittable(f"its {name} of {count} cannot be split over {size} ranks")
    try:
        split(group)
    except ValueError as error:
        raise NotSplittable(f"it cannot be split over {size} ranks: {error}") from error
    return model
