"""A model's content identity: the key of its prompt cache, and the fingerprint for clients."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from protocol.quantisation import KVBits
from worker.models.model_files import WEIGHT_FILES

KEY_BYTES = 16
SAMPLES = 32
SAMPLE_BYTES = 64 * 1024
FINGERPRINT_DIGITS = 12
TEXT_FILES = ("*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt")
PACKAGES = ("mlxd", "mlx", "mlx-lm", "transformers")

# It reads a file each time, for every model that is loaded.
version = functools.cache(metadata.version)


def content_key_of(path: Path, lora_path: str | None, kv_bits: KVBits = 0) -> str:
    """A hash of a model folder's content (hexadecimal), independent of where it lies.

    With quantised keys and values it is another one: what is computed and kept differs.

    Of large files only the size and `SAMPLES` samples are hashed, because reading a large
    model in full takes as long as loading it.
    """
    digest = hashlib.blake2b(f"mlx-lm {version('mlx-lm')}".encode(), digest_size=KEY_BYTES)
    if kv_bits:
        digest.update(f"keys and values of {kv_bits} bits".encode())
    files = sorted([*path.glob("*.json"), *path.glob(WEIGHT_FILES)])
    if lora_path is not None:
        files += sorted(Path(lora_path).glob("adapter*"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for offset in range(0, size, max(SAMPLE_BYTES, size // SAMPLES)):
                content.seek(offset)
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()


def fingerprint_of(path: Path, content_key: str) -> str:
    """OpenAI's `system_fingerprint`: `fp_` and twelve hexadecimal digits.

    It is the same for the same model content, templates and package versions.
    """
    digest = hashlib.sha256(content_key.encode())
    for package in PACKAGES:
        digest.update(f"{package}={version(package)}\n".encode())
    for file in sorted({file for pattern in TEXT_FILES for file in path.glob(pattern)}):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"fp_{digest.hexdigest()[:FINGERPRINT_DIGITS]}"
