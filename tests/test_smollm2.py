"""SmolLM2 as made of its GGUF file: its tokens restore texts, and its answers make sense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm import load

from tests import oracle
from tests.models import gguf, smollm2
from tests.sources import ROOT

ANSWER_TOKENS = 12
ANSWERS = {
    "The capital of France is": "Paris",
    "Monday, Tuesday, Wednesday,": " Thursday",
    "1, 2, 3, 4, 5,": " 6, 7",
}
TEXTS = [
    "Hello, world! It's 1984, isn't it?",
    "  two  spaces\n\n\tand tabs",
    "naïve café, 日本語, 👩‍👩‍👧‍👦",
    "def f(x):\n    return x + 1\n",
    "<|im_start|>user\nhi<|im_end|>",
]
# The vocabulary has no tokens for most control characters, and for two bytes that only rare
# planes of Unicode use.
CHARACTERS = st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cc", "Cs"])
# What would make the tests that are started here part of these.
HIDDEN = ("CI", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS")
long = pytest.mark.long


@pytest.mark.parametrize(("heads", "rows", "columns"), [(1, 4, 3), (3, 24, 5), (9, 72, 1)])
def test_rows_are_restored_from_llama_cpps_order(heads: int, rows: int, columns: int) -> None:
    array = mx.arange(rows * columns).reshape(rows, columns)
    # As llama.cpp's converter reorders them.
    halves = array.reshape(heads, 2, rows // heads // 2, columns)
    reordered = halves.swapaxes(1, 2).reshape(rows, columns)
    assert gguf.restore_rows(reordered, heads).tolist() == array.tolist()


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_are_named_with_their_bits_and_dequantised(bits: int) -> None:
    plain = mx.random.normal((8, 64), key=mx.random.key(0))
    packed, scales, biases = mx.quantize(plain, group_size=gguf.GROUP_SIZE, bits=bits)
    weights = {"a.weight": packed, "a.scales": scales, "a.biases": biases, "b.weight": mx.ones(3)}
    settings = {"group_size": gguf.GROUP_SIZE, "bits": bits}
    assert gguf.quantisation_of(weights) == {**settings, "a": settings}
    restored = gguf.dequantise(weights)
    assert set(restored) == {"a.weight", "b.weight"}
    assert mx.allclose(restored["a.weight"], plain, atol=4.0 / 2**bits)


@long
@pytest.mark.parametrize(("variables", "outcome"), [({}, "1 skipped"), ({"CI": "1"}, "1 error")])
def test_without_its_package_a_test_is_skipped_and_fails_in_ci(
    tmp_path: Path, variables: dict[str, str], outcome: str
) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    nowhere = {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *["-p", "no:cacheprovider", "-m", "long", "-k", "control"],
            __file__,
        ],
        env=environ | nowhere | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in ran.stdout.splitlines()[-1]
    assert smollm2.PACKAGE in ran.stdout


@long
def test_texts_come_back_from_their_tokens(smollm2_path: Path) -> None:
    tokenizer = oracle.tokenizer(smollm2_path)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@long
@settings(max_examples=200)
@given(text=st.text(CHARACTERS, max_size=60))
def test_any_text_comes_back_from_its_tokens(smollm2_path: Path, text: str) -> None:
    tokenizer = oracle.tokenizer(smollm2_path)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@long
def test_digits_are_tokens_of_their_own_and_common_words_single_tokens(smollm2_path: Path) -> None:
    tokenizer = oracle.tokenizer(smollm2_path)
    assert len(tokenizer.encode("20261126", add_special_tokens=False)) == 8
    for word in ("Hello", " capital", " France", " because"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


@long
def test_control_tokens_have_the_ids_of_the_file(smollm2_path: Path) -> None:
    tokenizer = oracle.tokenizer(smollm2_path)
    assert tokenizer.encode("<|im_start|>user", add_special_tokens=False)[0] == 1
    config = json.loads((smollm2_path / "config.json").read_text("utf-8"))
    assert tokenizer.decode([config["eos_token_id"]]) == "<|im_end|>"
    assert tokenizer.eos_token_ids == {config["eos_token_id"]}


@long
@pytest.mark.parametrize("prompt", ANSWERS)
def test_greedy_answers_make_sense(smollm2_path: Path, prompt: str) -> None:
    tokens = oracle.greedy_tokens(
        smollm2_path, oracle.text_tokens(smollm2_path, prompt), ANSWER_TOKENS
    )
    assert ANSWERS[prompt] in oracle.decode(smollm2_path, tokens)


@long
def test_a_chat_is_answered_and_ends_by_itself(smollm2_path: Path) -> None:
    question = [{"role": "user", "content": "What is the capital of Japan?"}]
    answer = oracle.greedy(smollm2_path, oracle.chat_tokens(smollm2_path, question), 40)
    assert "Tokyo" in answer.text
    assert answer.finish_reason == "stop"


@long
def test_the_embedding_has_8_bits_and_all_else_4(smollm2_4bit_path: Path) -> None:
    config = json.loads((smollm2_4bit_path / "config.json").read_text("utf-8"))
    layers = {name: entry for name, entry in config["quantization"].items() if "." in name}
    assert layers.pop("model.embed_tokens")["bits"] == 8
    assert {entry["bits"] for entry in layers.values()} == {4}
    assert len(layers) == 7 * config["num_hidden_layers"]


@long
def test_the_quantised_model_computes_what_the_dequantised_one_does(
    smollm2_path: Path, smollm2_4bit_path: Path
) -> None:
    tokens = mx.array([oracle.text_tokens(smollm2_path, "The capital of France is")])
    plain, quantised = (
        load(str(path))[0](tokens)[0, -1] for path in (smollm2_path, smollm2_4bit_path)
    )
    assert mx.allclose(plain, quantised, atol=1e-2)
    assert mx.argmax(plain).item() == mx.argmax(quantised).item()
