"""A name for what makes an answer what it is: the model's content and the versions that run it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

SAMPLE_BYTES = 64 * 1024
NAME_DIGITS = 12
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = "*.safetensors"
PACKAGES = ("mlxd", "mlx", "mlx-lm", "transformers")


def fingerprint(*folders: Path) -> str:
    """`fp_` and twelve hexadecimal digits, the same for the same files and versions.

    Small files count whole. Of weights, which may be many gigabytes, the size, the
    header and both ends count.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        digest.update(f"{package}={version(package)}\n".encode())
    for folder in folders:
        for part in _parts(folder):
            digest.update(part)
    return f"fp_{digest.hexdigest()[:NAME_DIGITS]}"


def _parts(folder: Path) -> Iterator[bytes]:
    for path in sorted({path for pattern in SMALL_FILES for path in folder.glob(pattern)}):
        yield path.name.encode()
        yield hashlib.sha256(path.read_bytes()).digest()
    for path in sorted(folder.glob(WEIGHTS)):
        size = path.stat().st_size
        yield f"{path.name}:{size}".encode()
        with path.open("rb") as file:
            yield file.read(SAMPLE_BYTES)
            file.seek(max(0, size - SAMPLE_BYTES))
            yield file.read()
