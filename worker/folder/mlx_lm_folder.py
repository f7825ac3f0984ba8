"""A model's folder as mlx-lm can read it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_config as load_config_by_mlx_lm

from worker.folder.generation_config import FILE


def load_config(path: Path) -> dict[str, Any]:
    """A model's config.json as mlx-lm reads it."""
    with folder_for_mlx_lm(path) as folder:
        config: dict[str, Any] = load_config_by_mlx_lm(folder)
    return config


@contextmanager
def folder_for_mlx_lm(path: Path) -> Iterator[Path]:
    """The folder of a model without a generation_config.json that mlx-lm fails to read.

    Remove when mlx-lm (0.32.2 does not) takes a file that is not UTF-8 or contains no object.
    """
    try:
        content = json.loads((path / FILE).read_text() or "{}")
        is_readable = isinstance(content, dict)
    except json.JSONDecodeError:
        is_readable = True
    except (OSError, ValueError, RecursionError):
        is_readable = not (path / FILE).exists()
    if is_readable:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mlxd-model-") as folder:
        for entry in path.iterdir():
            if entry.name != FILE:
                (Path(folder) / entry.name).symlink_to(entry.absolute())
        yield Path(folder)
