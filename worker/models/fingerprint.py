"""A model's content identity: what keys its prompt cache, and what clients see of it."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from worker.models.model_files import WEIGHT_FILES

KEY_BYTES = 16
SAMPLES = 32
SAMPLE_BYTES = 64 * 1024
FINGERPRINT_DIGITS = 12
TEXT_FILES = ("*.jinja", "*.model", "*.txt")
PACKAGES = ("mlxd", "mlx", "mlx-lm", "transformers")


def content_key_of(path: Path, lora_path: str | None) -> str:
    """A name for what the model computes: the same folder content gives the same one.

    Weights count by their sizes, headers and samples, because to read all of a large
    model would take as long as to load it.
    """
    digest = hashlib.blake2b(f"mlx-lm {version('mlx-lm')}".encode(), digest_size=KEY_BYTES)
    files = sorted([*path.glob("*.json"), *path.glob(WEIGHT_FILES)])
    if lora_path is not None:
        files += sorted(Path(lora_path).glob("adapter*"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for place in range(0, size, max(SAMPLE_BYTES, size // SAMPLES)):
                content.seek(place)
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()


def fingerprint_of(path: Path, content_key: str) -> str:
    """OpenAI's `system_fingerprint`: `fp_` and twelve hexadecimal digits.

    It is the same for the same content, templates and versions.
    """
    digest = hashlib.sha256(content_key.encode())
    for package in PACKAGES:
        digest.update(f"{package}={version(package)}\n".encode())
    for file in sorted({file for pattern in TEXT_FILES for file in path.glob(pattern)}):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"fp_{digest.hexdigest()[:FINGERPRINT_DIGITS]}"
