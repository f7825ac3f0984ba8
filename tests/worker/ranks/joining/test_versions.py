"""What computes on a rank, and what another one has otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.sources import ROOT
from worker.ranks.joining.versions import (
    CODE_FOLDERS,
    describe_difference,
    digest_code,
    read_versions,
    version_of,
)


def test_everything_that_rounds_or_plans_has_a_version() -> None:
    assert read_versions().keys() >= {"mlxd", "mlx", "mlx-lm", "numpy", "Python", "device", "plans"}
    assert version_of("no-such-package-here") == "none"


def test_only_what_differs_is_named() -> None:
    own = read_versions()
    assert describe_difference(own, own) is None
    other = {**own, "mlx": "0.1"}
    assert describe_difference(other, own) == f"mlx 0.1 where rank 0 has {own['mlx']}"
    del other["Python"]
    expected = f"mlx 0.1 where rank 0 has {own['mlx']}, Python unknown where rank 0 has"
    assert str(describe_difference(other, own)).startswith(expected)


def test_two_checkouts_differ_where_their_code_does(tmp_path: Path) -> None:
    for folder in CODE_FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    assert digest_code(tmp_path) == digest_code(ROOT)
    with (tmp_path / "worker" / "ranks" / "plan.py").open("a") as plan:
        plan.write("\n")
    assert digest_code(tmp_path) != digest_code(ROOT)
