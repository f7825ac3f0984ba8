"""Makes a family's tiny model and its quantised one, and compares both with mlx-lm alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlx_lm.utils import load_model

from tests.models.architectures.formats import FORMATS
from tests.models.architectures.making import make
from tests.worker.families.comparison import Outcome, compare, compare_at_once
from tests.worker.families.table import QUANTISED


def measure(family: str, folder: Path) -> dict[str, str]:
    """The outcomes of a family by the columns of the table; both models are made in `folder`."""
    plain = compare(make(family, folder / family))
    return {**plain, QUANTISED: measure_quantised(family, folder)}


def measure_anew(family: str) -> dict[str, str]:
    """The same, with the models in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(family, Path(folder))


def measure_quantised(family: str, folder: Path) -> Outcome:
    """How the family's model of 4 bits answers eight prompts at once."""
    try:
        files = FORMATS["4 bits"](family, folder / "quantised")
        load_model(files.model, lazy=True)
    except (TypeError, ValueError):
        # mlx-lm cannot quantise it, or not load what it has quantised.
        return "none"
    return compare_at_once(files.model)
