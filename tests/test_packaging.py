"""What the wheel holds: the product and the demo model, not how that was made."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.sources import PRODUCT, ROOT, sources, tracked_files

SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "setuptools"
]
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
