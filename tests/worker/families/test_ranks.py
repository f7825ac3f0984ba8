"""Every family that mlx-lm can split is answered by several ranks as by one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx
import pytest

from protocol.quantisation import KVBits
from protocol.ranks import Split
from tests.models.architectures.making import build, write
from tests.models.architectures.scaling import deepen, divide_in_three
from tests.models.architectures.sizes import Config
from tests.models.architectures.table import config_of, families, unavailable
from tests.worker.ranks import grouped
from tests.worker.ranks.grouped import Job
from worker.ranks.parts.pipeline import find_pipeline
from worker.ranks.parts.tensor import has_tensor_form

QUICK_REQUESTS = 6
# Each kind of request at least once.
REQUESTS = 8
# Layers of both kinds on each rank, also of the families that have two in turn.
LAYERS_OF_RANK = 2
# Each test computes one part of the families, so that the processes of `pytest -n` share them.
PARTS = 4

# The families that three ranks cannot split by heads, and what is said.
NOT_IN_THREE = {
    "deepseek_v41": "needs 3 to divide the 6 attention heads and the 2 output groups",
    "kimi_k3": "does not result in sub arrays with equal size",
    "longcat_flash": "Cannot shard the output of size 128 across 3 devices",
    "longcat_flash_ngram": "Cannot shard the output of size 128 across 3 devices",
    "prism_hadamard_qwen35": "group size 3 must divide vocab_size 512",
    "qwen3_5": "group size 3 must divide vocab_size 512",
    "qwen3_5_moe": "group size 3 must divide vocab_size 512",
    "step3p5": "Cannot shard the output of size 32 across 3 devices",
}


def make(family: str, folder: Path, size: int, split: Split) -> Path:
    """The tiny model of a family, in sizes that so many ranks can split."""
    config = scaled(config_of(family), size, split)
    # What its class draws at random is drawn once: all ranks read it from the file.
    return write(folder / family, build(config), config)


def scaled(config: Config, size: int, split: Split) -> Config:
    """The configuration in sizes that so many ranks can split."""
    if split == "pipeline":
        return deepen(config, LAYERS_OF_RANK * size)
    return divide_in_three(config) if size == 3 else config


def families_with(split: Split) -> list[str]:
    """The families that mlx-lm can split so, and whose models can run here."""
    has_form = has_tensor_form if split == "tensor" else find_pipeline
    available = [family for family in families() if family not in unavailable()]
    return [family for family in available if has_form(build(config_of(family)))]


def test_a_pipeline_answers_as_one_process(tmp_path: Path) -> None:
    path = make("qwen3_next", tmp_path, 2, "pipeline")
    [outcome] = grouped.compute(2, [Job(str(path), requests=QUICK_REQUESTS)])
    assert (outcome.split, outcome.differing, outcome.refused) == ("pipeline", [], "")
    assert outcome.answered > QUICK_REQUESTS
    # Each rank has two of the four layers.
    assert outcome.layers == LAYERS_OF_RANK


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("size", [2, 3])
def test_every_family_is_computed_by_layers_as_by_one_process(
    size: int, part: int, tmp_path: Path
) -> None:
    names = families_with("pipeline")[part::PARTS]
    outcomes = compute(names, tmp_path, size, "pipeline")
    assert problems_of(outcomes) == {}
    assert [outcome.split for outcome in outcomes.values()] == ["pipeline"] * len(names)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("size", [2, 3])
def test_every_family_is_computed_by_heads_as_by_one_process(
    size: int, part: int, tmp_path: Path
) -> None:
    names = families_with("tensor")[part::PARTS]
    outcomes = compute(names, tmp_path, size, "tensor")
    problems = problems_of(outcomes)
    not_split = NOT_IN_THREE if size == 3 else {}
    refused = {name: words for name, words in not_split.items() if name in names}
    assert problems.keys() == refused.keys()
    assert all(words in problems[family] for family, words in refused.items())


@pytest.mark.long
@pytest.mark.parametrize("bits", [4, 8])
def test_a_pipeline_with_quantised_keys_and_values_answers_as_one_process(
    bits: KVBits, tmp_path: Path
) -> None:
    path = make("qwen3_moe", tmp_path, 2, "pipeline")
    [outcome] = grouped.compute(2, [Job(str(path), "pipeline", kv_bits=bits)])
    assert (outcome.split, outcome.differing, outcome.refused) == ("pipeline", [], "")


def compute(
    names: Iterable[str], folder: Path, size: int, split: Split
) -> dict[str, grouped.Outcome]:
    """The outcomes of these families."""
    mx.random.seed(0)
    jobs = [Job(str(make(name, folder, size, split)), split, requests=REQUESTS) for name in names]
    outcomes = grouped.compute(size, jobs)
    return {Path(outcome.path).name: outcome for outcome in outcomes}


def problems_of(outcomes: Mapping[str, grouped.Outcome]) -> dict[str, str]:
    """Why families were refused, or which of their answers differ."""
    return {
        family: outcome.refused or f"differing: {outcome.differing}"
        for family, outcome in outcomes.items()
        if outcome.refused or outcome.differing or not outcome.answered
    }
