"""Mistral's Tekken vocabularies keep their spaces, in whatever way a folder describes them."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from protocol.messages import ModelSource, TextPrompt
from service.host.local_models import inspect_model
from tests.worker.driver import make_config_loader
from worker.folder.tekken import tekken_settings
from worker.models.model_config import ModelConfig
from worker.outputs.detokenizer import byte_level_decoder

TEXT = "The cat, the mat\n  and 5 dogs \u00e9\U0001f600"
CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]"]
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SENTENCEPIECE_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def folder(llama_path: Path, tmp_path: Path) -> Path:
    """A byte-level vocabulary in the folder of a Mistral model."""
    folder = shutil.copytree(llama_path, tmp_path / "m")
    change(folder / "config.json", model_type="mistral")
    return folder


def with_tekken_file(folder: Path) -> Path:
    """The same vocabulary in Mistral's format alone."""
    learned = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    decode = byte_level_decoder()
    tokens = [decode(token) for token, _ in sorted(learned.items(), key=lambda each: each[1])]
    content = {
        "config": {
            "pattern": WORDS,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) + len(CONTROL),
            "default_num_special_tokens": len(CONTROL),
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True}
            for rank, name in enumerate(CONTROL)
        ],
    }
    (folder / "tekken.json").write_text(json.dumps(content))
    (folder / "tokenizer.json").unlink()
    return folder


def load(folder: Path) -> ModelConfig:
    return make_config_loader().load(ModelSource("m", str(folder)), download=False)


def written(config: ModelConfig, tokens: list[int]) -> str:
    detokenizer = config.parsers._create_detokenizer(False, ())
    return "".join(map(detokenizer.push, tokens)) + detokenizer.flush()


@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast", None])
def test_spaces_are_kept_with_a_decoder_of_sentencepiece(folder: Path, name: str | None) -> None:
    expected = load_tokenizer(folder).encode(TEXT)
    change(folder / "tokenizer.json", decoder=SENTENCEPIECE_DECODER)
    change(folder / "tokenizer_config.json", tokenizer_class=name)
    config = load(folder)
    tokens = config.prompts.build(TextPrompt(TEXT))
    assert tokens == expected
    assert written(config, tokens[1:]) == TEXT
    assert config.prompts._tokenizer.decode(tokens[1:]) == TEXT
    assert b"".join(map(config.token_bytes, tokens[1:])).decode() == TEXT


@pytest.mark.parametrize("name", [None, "MistralCommonBackend", "LlamaTokenizer"])
@pytest.mark.parametrize("model_type", ["mistral", "mistral3", "llama"])
def test_a_tekken_file_alone_is_a_tokenizer(
    folder: Path, model_type: str, name: str | None
) -> None:
    with_tekken_file(folder)
    change(folder / "config.json", model_type=model_type)
    (folder / "tokenizer_config.json").unlink()
    if name is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    config = load(folder)
    tokens = config.prompts.build(TextPrompt(TEXT))
    assert tokens[0] == CONTROL.index("<s>")
    assert written(config, tokens[1:]) == TEXT
    assert CONTROL.index("</s>") in config.stop_tokens
    assert config.prompts.build(TextPrompt("[INST]"))[1:] == [CONTROL.index("[INST]")]
    assert inspect_model(str(folder)).problems == []


@pytest.mark.long
def test_the_pattern_of_words_is_corrected_for_mistrals_vocabularies_only(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    learned = tokenizer["model"]["vocab"]
    # transformers corrects vocabularies of more than 100,000 tokens.
    learned |= {f"\u0120filler{n}": len(learned) + 100 + n for n in range(100_000)}
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s|\S+"}
    added = tokenizer["added_tokens"]
    added.append({**added[0], "id": 200_000, "content": "[AVAILABLE_TOOLS]"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = load(folder).prompts._tokenizer.backend_tokenizer.pre_tokenizer
    assert [word for word, _ in words.pre_tokenize_str("the cat")] == ["the", "\u0120cat"]
    change(folder / "config.json", model_type="llama")
    words = load(folder).prompts._tokenizer.backend_tokenizer.pre_tokenizer
    assert [word for word, _ in words.pre_tokenize_str("the cat")] == ["the", "\u0120", "cat"]


def test_other_vocabularies_are_left_alone(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        config = json.loads((path / "config.json").read_text())
        assert tekken_settings(path, config | {"model_type": "mistral"}) == {}
