"""Every family that mlx-lm has is answered as by mlx-lm alone, or is known not to be."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from _pytest.mark.structures import ParameterSet

from tests.models.architectures.making import build, make
from tests.models.architectures.table import config_of, families, unavailable
from tests.worker.families import table
from tests.worker.families.comparison import compare
from tests.worker.families.expected import (
    EXCEPTIONS,
    expected_of,
    expected_quantised_of,
    results_of,
)
from tests.worker.families.measuring import measure_quantised

# One of each kind of cache and layer, beside the models of all other tests (Llama 3, Qwen 3,
# Gemma 3) and those of tests/worker/engine/test_rows_alone.py; the others take minutes.
QUICK = frozenset(
    {
        "deepseek_v3",
        "gpt_oss",
        "lfm2",
        "qwen3_next",
    }
)


def cases() -> list[ParameterSet]:
    """Every family; those that take too long together, or cannot run here, with a mark."""
    missing = unavailable()
    return [
        pytest.param(
            family,
            marks=[
                *([] if family in QUICK else [pytest.mark.long]),
                *([pytest.mark.skip(reason=missing[family])] if family in missing else []),
            ],
        )
        for family in families()
    ]


@pytest.mark.parametrize("family", cases())
def test_answers_are_those_of_mlx_lm(family: str, tmp_path: Path) -> None:
    path = make(family, tmp_path / family)
    assert compare(path) == expected_of(family)


@pytest.mark.long
@pytest.mark.parametrize("family", [name for name in families() if name not in unavailable()])
def test_answers_of_the_quantised_model_are_those_of_mlx_lm(family: str, tmp_path: Path) -> None:
    assert measure_quantised(family, tmp_path) == expected_quantised_of(family)


def test_the_table_in_the_workers_document_is_what_is_expected() -> None:
    known = [family for family in families() if family not in unavailable()]
    if mx.metal.is_available():
        pytest.skip("the table is that of the CPU")
    assert table.read() == table.render(results_of(known), unavailable())


@pytest.mark.parametrize("family", sorted(unavailable()))
def test_a_family_that_is_said_not_to_run_here_does_not(family: str) -> None:
    with pytest.raises((SystemExit, RuntimeError)):
        mx.eval(build(config_of(family))(mx.array([[1, 2, 3]])))


def test_every_family_has_a_tiny_model() -> None:
    assert [family for family in families() if not config_of(family)] == []


def test_what_is_expected_to_be_wrong_is_a_family_of_mlx_lm() -> None:
    assert EXCEPTIONS.keys() <= set(families())
    assert set(families()) >= QUICK
