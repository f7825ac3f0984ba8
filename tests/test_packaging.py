"""What the wheel holds: the product and the demo model; and the formula, workflow and templates."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.sources import PRODUCT, ROOT, sources, tracked_files

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
SETUPTOOLS: dict[str, Any] = PYPROJECT["tool"]["setuptools"]
FIND: dict[str, list[str]] = SETUPTOOLS["packages"]["find"]
PACKAGE_DATA: dict[str, list[str]] = SETUPTOOLS["package-data"]
TRAINING = "worker.demo.training"


def is_packaged(package: str) -> bool:
    """Whether `packages.find` takes a package; setuptools matches its patterns like this."""
    return any(fnmatchcase(package, pattern) for pattern in FIND["include"]) and not any(
        fnmatchcase(package, pattern) for pattern in FIND["exclude"]
    )


def is_package_data(path: str) -> bool:
    """Whether a glob of `package-data` takes a file; each is relative to its package."""
    file = PurePosixPath(path)
    return any(
        file.parent == (pattern := PurePosixPath(package, glob)).parent
        and fnmatchcase(file.name, pattern.name)
        for package, globs in PACKAGE_DATA.items()
        for glob in globs
    )


def packages() -> set[str]:
    """Every package of the source tree outside the tests."""
    folders = (PurePosixPath(source.path).parent for source in sources(*PRODUCT))
    return {".".join(folder.parts) for folder in folders}


def test_every_package_but_the_demo_models_training_is_in_the_wheel() -> None:
    assert {"worker.demo", TRAINING, f"{TRAINING}.corpus"} <= packages()
    left_out = {package for package in packages() if not is_packaged(package)}
    assert left_out == {TRAINING, f"{TRAINING}.corpus"}


@pytest.mark.parametrize("package", ["tests", "tests.worker.demo", "deploy"])
def test_a_package_that_is_not_of_the_product_is_not_in_the_wheel(package: str) -> None:
    assert not is_packaged(package)


@pytest.mark.parametrize("folder", ["worker/demo/model", "service/page"])
def test_every_file_of_the_demo_model_and_of_the_page_is_in_the_wheel(folder: str) -> None:
    files = [path.relative_to(ROOT).as_posix() for path in tracked_files(folder)]
    data = [path for path in files if not path.endswith(".py")]
    assert len(data) > 1
    assert [path for path in data if not is_package_data(path)] == []


def test_only_package_data_adds_files_that_are_not_python() -> None:
    # With true, a list of sources left in mlxd.egg-info would add files of excluded packages.
    assert SETUPTOOLS["include-package-data"] is False
    assert not is_package_data("worker/demo/training/corpus/words.txt")
    assert not is_package_data("service/page/images/large.png")


def test_the_formula_has_the_version_and_the_requirements_of_the_package() -> None:
    formula = (ROOT / "deploy" / "mlxd.rb").read_text("utf-8")
    assert f'version "{PROJECT["version"]}"' in formula
    assert f"mlxd-{PROJECT['version']}.tar.gz" in formula
    assert PROJECT["description"].removeprefix("An ") in formula
    assert f'license "{PROJECT["license"]}"' in formula
    assert "depends_on arch: :arm64" in formula
    assert "depends_on macos: :sonoma" in formula


def test_the_workflow_runs_what_the_makefile_has_and_says_that_it_has_not_been_run() -> None:
    workflow = (ROOT / ".github" / "workflows" / "macos.yml").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"run: make ([\w-]+)", workflow)
    assert targets == ["test-fast"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "run: .venv/bin/mlxd doctor --selftest --quick --json selftest.json" in workflow
    assert "Nobody has run this workflow yet" in workflow


def test_an_issue_asks_for_the_report_of_the_selftest() -> None:
    templates = [path.read_text("utf-8") for path in tracked_files(".github/ISSUE_TEMPLATE")]
    asking = [text for text in templates if "Run `mlxd doctor --selftest`" in text]
    assert len(asking) == 2
    assert all("required: true" in text for text in asking)
