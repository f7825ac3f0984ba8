"""The versions of what computes on a rank: with others it would round otherwise."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx

COMPARED_PACKAGES = ("mlxd", "mlx", "mlx-lm", "numpy")
# What a step of another rank follows from: the plans, and the code that carries them out.
CODE_FOLDERS = ("protocol", "worker/ranks", "worker/engine", "worker/models", "worker/cache")
CODE_DIGITS = 12


def read_versions() -> dict[str, str]:
    """What computes on this rank, by name.

    `plans` is a digest of mlxd's own code for them: two checkouts may have the same version.
    """
    return {
        **{name: version_of(name) for name in COMPARED_PACKAGES},
        "Python": platform.python_version(),
        "device": mx.default_device().type.name,
        "plans": digest_code(Path(__file__).parents[3]),
    }


def version_of(package: str) -> str:
    """The version of a package; "none" where it is not installed, as in a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def digest_code(root: Path) -> str:
    """A digest of the modules that make and follow plans."""
    digest = hashlib.sha256()
    for folder in CODE_FOLDERS:
        for path in sorted(Path(root, folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:CODE_DIGITS]


def describe_difference(theirs: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    """What another rank has that this one has not, in words; None if there is nothing."""
    names = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
    if not names:
        return None
    return ", ".join(
        f"{name} {theirs.get(name, 'unknown')} where rank 0 has {own.get(name, 'unknown')}"
        for name in names
    )
