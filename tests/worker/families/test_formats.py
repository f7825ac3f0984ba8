"""A model answers as mlx-lm does in each form that its weights are published in."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from _pytest.mark.structures import ParameterSet

from tests.models.architectures.formats import FORMATS
from tests.worker.families.comparison import CHECKS, compare

# Attention alone, with experts, and with convolutions.
FAMILIES = ("llama", "qwen3_moe", "lfm2")
# What MLX 0.32.4 cannot compute on the CPU.
METAL_ONLY = {("qwen3_moe", "bfloat16"), ("qwen3_moe", "float16")}
# The others take minutes.
QUICK = ("4 bits", "bfloat16", "sharded", "LoRA")


def cases() -> list[ParameterSet]:
    """Every form of each family that can be computed here; most with the mark of long tests."""
    return [
        pytest.param(
            family, form, marks=[] if family == "llama" and form in QUICK else [pytest.mark.long]
        )
        for family in FAMILIES
        for form in FORMATS
        if mx.metal.is_available() or (family, form) not in METAL_ONLY
    ]


@pytest.mark.parametrize(("family", "form"), cases())
def test_answers_are_those_of_mlx_lm(family: str, form: str, tmp_path: Path) -> None:
    files = FORMATS[form](family, tmp_path)
    assert compare(files.model, files.adapter) == dict.fromkeys(CHECKS, "right")
