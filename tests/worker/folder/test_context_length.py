"""The context length is that with which the model's RoPE was scaled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import ModelSource, Sampling, Submit, TokenPrompt
from tests.worker.driver import make_config_loader, make_pool, run_loop, tokens_of
from worker.folder.context_length import (
    FALLBACK_CONTEXT_TOKENS,
    MAX_CONTEXT_TOKENS,
    context_tokens_of,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


def rope(kind: str, factor: Any = 4.0, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "factor": factor, **fields}


def original(length: int) -> dict[str, int]:
    return {"original_max_position_embeddings": length}


@pytest.mark.parametrize(
    ("stated", "scaling", "length"),
    [
        # Qwen 2.5 and 3 as their cards ask for, DeepSeek V3, an older name, Ministral.
        (32768, rope("yarn", **original(32768)), 131072),
        (40960, rope("yarn", **original(32768)), 131072),
        (163840, rope("yarn", 40, **original(4096)), 163840),
        (32768, {"type": "yarn", "factor": 4.0, **original(32768)}, 131072),
        (32768, rope("deepseek_yarn", 2), 65536),
        (32768, rope("yarn", 16, **original(16384)), 262144),
        (32768, {"full_attention": rope("yarn", 2), "sliding_attention": rope("default")}, 65536),
        # Llama 3 and Phi state the scaled length.
        (131072, rope("llama3", 8, **original(8192)), 131072),
        (131072, rope("llama3", 32, **original(8192)), 131072),
        (131072, rope("longrope", **original(4096)), 131072),
        (32768, rope("su", 32, **original(4096)), 32768),
        (32768, rope("linear"), 131072),
        (32768, rope("dynamic", 2), 65536),
        (32768, rope("linear", 4, **original(4096)), 32768),
        (32768, rope("mrope"), 32768),
        (32768, rope("default"), 32768),
        (32768, None, 32768),
        (32768, rope("yarn", 0.5), 32768),
        (32768, rope("yarn", "4"), 32768),
        (32768, rope("yarn", 10**30), MAX_CONTEXT_TOKENS),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("nested", [None, "text_config", "llm_config", "language_config"])
def test_scaling_gives_the_real_length(
    stated: int, scaling: dict[str, Any] | None, length: int, key: str, nested: str | None
) -> None:
    config = {"max_position_embeddings": stated, key: scaling}
    assert context_tokens_of(config if nested is None else {nested: config}) == length


def test_gemma_3_states_the_scaled_length() -> None:
    config = {"max_position_embeddings": 131072, "rope_scaling": rope("linear", 8)}
    assert context_tokens_of({"model_type": "gemma3_text", **config}) == 131072
    assert context_tokens_of({"text_config": {"model_type": "gemma3_text", **config}}) == 131072


@pytest.mark.parametrize("key", ["n_positions", "n_ctx", "max_sequence_length", "seq_length"])
def test_older_names_of_the_length_are_known(key: str) -> None:
    assert context_tokens_of({key: 777}) == 777


@pytest.mark.parametrize("length", [None, 0, -1, "4096", True, [4096]])
def test_without_a_length_it_is_a_small_one(length: Any) -> None:
    assert context_tokens_of({"max_position_embeddings": length}) == FALLBACK_CONTEXT_TOKENS


@given(
    SCALARS,
    st.dictionaries(st.sampled_from(["type", "rope_type", "factor", *original(0)]), SCALARS),
)
def test_any_configuration_has_a_length(length: Any, scaling: dict[str, Any]) -> None:
    config = {"max_position_embeddings": length, "rope_scaling": scaling}
    assert 1 <= context_tokens_of(config) <= MAX_CONTEXT_TOKENS


def test_a_scaled_model_answers_a_prompt_beyond_its_original_length(
    qwen_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(qwen_path, tmp_path / "m")
    file = folder / "config.json"
    scaled = {"max_position_embeddings": 64, "rope_scaling": rope("yarn", **original(64))}
    file.write_text(json.dumps(json.loads(file.read_text()) | scaled))
    source = ModelSource("m", str(folder))
    assert make_config_loader().context_length(source) == 256
    submit = Submit(1, "m", TokenPrompt([5] * 200), Sampling(0, temperature=0), max_tokens=8)
    assert len(tokens_of(run_loop(make_pool(folder), [submit]), 1)) == 8
