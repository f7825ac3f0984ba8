"""The fingerprint is the same for the same model content, and another for other content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worker.models.fingerprint import content_key_of, fingerprint_of


def fingerprint(path: Path, lora_path: Path | None = None) -> str:
    return fingerprint_of(path, content_key_of(path, None if lora_path is None else str(lora_path)))


@pytest.fixture
def copied(llama_path: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama_path, tmp_path / "elsewhere")


def test_a_copy_elsewhere_has_the_same_fingerprint(llama_path: Path, copied: Path) -> None:
    assert fingerprint(copied) == fingerprint(llama_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_other_content_has_another_fingerprint(llama_path: Path, copied: Path, name: str) -> None:
    file = copied / name
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    assert fingerprint(copied) != fingerprint(llama_path)


def test_a_lora_adapter_changes_the_fingerprint(llama_path: Path, copied: Path) -> None:
    (copied / "adapters.safetensors").write_bytes(b"weights")
    assert fingerprint(llama_path, copied) != fingerprint(llama_path)


def test_quantised_keys_and_values_have_another_fingerprint(llama_path: Path) -> None:
    keys = {content_key_of(llama_path, None, bits) for bits in (0, 4, 8)}
    assert len({fingerprint_of(llama_path, key) for key in keys}) == len(keys) == 3
