"""generation_config.json sets what requests leave to the model, and no bad value stops a load."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import ModelSource, Sampling, Submit, TextPrompt
from protocol.model_states import ModelDefaults
from tests.worker.driver import make_config_loader, make_configure
from worker.folder.generation_config import (
    GenerationConfig,
    apply_defaults,
    parse_defaults,
    read_generation_config,
)
from worker.intake.prepared import PreparedRequest, prepare
from worker.models.model_config import ModelConfig
from worker.models.pool import ModelPool

ALL: dict[str, Any] = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.05,
}
NAMES = list(ALL)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


def read(folder: Path, content: str | bytes | Any) -> GenerationConfig:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    data = text.encode() if isinstance(text, str) else text
    (folder / "generation_config.json").write_bytes(data)
    return read_generation_config(folder)


def with_file(path: Path, folder: Path, content: bytes) -> Path:
    """A copy of the model `path` with this generation_config.json."""
    shutil.copytree(path, folder)
    (folder / "generation_config.json").write_bytes(content)
    return folder


def load(path: Path, **settings: Any) -> ModelConfig:
    return make_config_loader().load(ModelSource("m", str(path), **settings), download=False)


def test_the_five_parameters_of_vllm_are_read_and_no_other(tmp_path: Path) -> None:
    found = read(tmp_path, {**ALL, "do_sample": False, "max_new_tokens": 5, "num_beams": 4})
    assert found.defaults == ModelDefaults(**ALL)
    assert found.problems == ()


@pytest.mark.parametrize(
    "content", ["", "  \n", "{}", "null", "\ufeff{}", json.dumps(dict.fromkeys(ALL))]
)
def test_an_empty_file_and_nulls_say_nothing(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == GenerationConfig()


def test_a_missing_file_says_nothing(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == GenerationConfig()


@pytest.mark.parametrize(
    ("value", "ids", "is_whole"),
    [(7, {7}, True), ([7, 8], {7, 8}, True), ([7, None], {7}, True), ([7, "8"], {7}, False)],
)
def test_one_stop_token_or_a_list_is_taken(
    tmp_path: Path, value: Any, ids: set[int], is_whole: bool
) -> None:
    found = read(tmp_path, {"eos_token_id": value})
    assert found.stop_tokens == ids
    assert (found.problems == ()) is is_whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.6"),
        ("temperature", -0.1),
        ("temperature", True),
        ("temperature", [0.6]),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", -2),
        ("top_k", 10**30),
        ("min_p", float("inf")),
        ("repetition_penalty", 0),
        ("eos_token_id", "</s>"),
    ],
)
def test_a_bad_value_is_reported_by_file_and_name_and_the_others_apply(
    tmp_path: Path, name: str, value: Any
) -> None:
    found = read(tmp_path, {**ALL, name: value})
    [problem] = found.problems
    assert problem.startswith(f"generation_config.json: {name} ")
    assert found.defaults == ModelDefaults(**{n: v for n, v in ALL.items() if n != name})


@given(st.dictionaries(st.sampled_from([*NAMES, "eos_token_id"]), VALUES))
def test_every_value_is_used_or_reported(content: dict[str, Any]) -> None:
    defaults, problems = parse_defaults(content)
    for name in NAMES:
        is_used = getattr(defaults, name) is not None
        is_reported = any(problem.startswith(f"{name} ") for problem in problems)
        assert is_used + is_reported == (content.get(name) is not None)


@pytest.mark.parametrize("value", [-1, 0, 0.0])
def test_a_top_k_of_minus_one_or_nought_is_off(value: float) -> None:
    assert parse_defaults({"top_k": value}) == (ModelDefaults(top_k=0), [])


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_a_default_applies_where_the_request_leaves_it_and_the_file_names_it(
    unset: set[str], named: set[str]
) -> None:
    requested = Sampling(
        seed=1, temperature=1.5, top_p=0.5, top_k=3, min_p=0.2, unset=sorted(unset)
    )
    defaults = ModelDefaults(**{name: ALL[name] for name in named})
    applied = apply_defaults(requested, defaults)
    for name in NAMES:
        expected = ALL[name] if name in unset & named else getattr(requested, name)
        assert getattr(applied, name) == expected
    assert applied.unset == []


def test_a_top_p_of_nought_is_greedy() -> None:
    requested = Sampling(seed=1, temperature=1.0, unset=["top_p"])
    applied = apply_defaults(requested, ModelDefaults(top_p=0.0))
    assert (applied.temperature, applied.top_p) == (0.0, 1.0)


def test_every_sequence_of_a_prepared_request_has_the_models_defaults(
    llama_path: Path, tmp_path: Path
) -> None:
    config = load(with_file(llama_path, tmp_path / "m", b'{"top_k": 1}'))
    submit = Submit(1, "m", TextPrompt("hello"), Sampling(seed=1, unset=["top_k"]))
    prepared = prepare(config, submit)
    assert isinstance(prepared, PreparedRequest)
    assert prepared.submit.sampling == Sampling(seed=1, top_k=1)


def test_the_switch_ignores_the_sampling_and_keeps_the_stop_tokens(
    llama_path: Path, tmp_path: Path
) -> None:
    path = with_file(llama_path, tmp_path / "m", b'{"top_k": 1, "eos_token_id": [5]}')
    assert load(path).defaults == ModelDefaults(top_k=1)
    ignoring = load(path, generation_config=False)
    assert ignoring.defaults == ModelDefaults()
    assert 5 in ignoring.stop_tokens


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"[1, 2]", b'"x"', b"\xff\xfe", b"{", b'{"eos_token_id": {}}']
)
def test_no_content_of_the_file_fails_a_load(
    llama_path: Path, tmp_path: Path, content: bytes
) -> None:
    path = with_file(llama_path, tmp_path / "m", content)
    configure = make_configure([ModelSource("m", str(path))])
    pool = ModelPool(configure, make_config_loader())
    pool.load_all()
    assert pool["m"].config.defaults == ModelDefaults()
    assert pool["m"].config.stop_tokens


def test_a_load_warns_of_what_it_ignores(
    llama_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_file(llama_path, tmp_path / "m", b'{"temperature": "hot"}')
    with caplog.at_level(logging.WARNING):
        load(path)
    [message] = caplog.messages
    assert message.startswith("model m: generation_config.json: temperature is ignored: ")
