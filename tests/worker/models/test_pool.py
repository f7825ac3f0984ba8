"""Loading reports its progress and the model's facts, and a model that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protocol.messages import Loading, ModelSource
from protocol.model_states import ModelDefaults
from tests.worker.driver import make_configure
from worker.engine.engine import Engine
from worker.models.families import build_registry
from worker.models.model_config import LoadError, ModelConfigLoader
from worker.models.pool import ModelPool, NoWaitingRequests

SLACK_BYTES = 1 << 20


def load(path: Path) -> tuple[ModelPool, list[Loading]]:
    reports: list[Loading] = []
    configure = make_configure([ModelSource("tiny", str(path))])
    pool = ModelPool(configure, ModelConfigLoader(build_registry(), 0), on_loading=reports.append)
    pool.load_all()
    return pool, reports


def test_loading_reports_its_progress_from_nothing_to_all(llama_path: Path) -> None:
    _, reports = load(llama_path)
    assert reports[0].done_bytes == 0
    assert reports[-1].done_bytes == reports[-1].total_bytes > 0
    assert [report.done_bytes for report in reports] == sorted(r.done_bytes for r in reports)


def test_a_model_is_described_by_its_own_files(gemma_path: Path) -> None:
    pool, reports = load(gemma_path)
    config = json.loads((gemma_path / "config.json").read_text())
    info = pool["tiny"].info
    assert info.family == config["model_type"]
    assert info.context_length == config["max_position_embeddings"]
    assert info.vocabulary_size == config["vocab_size"]
    assert info.weight_bytes == reports[-1].total_bytes


def test_a_models_facts_are_those_of_its_last_load(llama_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_path, tmp_path / "m")
    configure = make_configure([ModelSource("m", str(folder))])
    pool = ModelPool(configure, ModelConfigLoader(build_registry(), 0))
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 64}))
    pool.load_all()
    assert pool.unload("m", NoWaitingRequests())
    [state] = pool.states()
    assert (state.status, state.context_length) == ("unloaded", 64)
    assert state.defaults == ModelDefaults(temperature=0.5)


def test_a_folder_without_a_model_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="model 'tiny' cannot be loaded"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_a_load_error(llama_path: Path, tmp_path: Path, name: str) -> None:
    broken = shutil.copytree(llama_path, tmp_path / "broken")
    (broken / name).write_bytes(b"damaged")
    with pytest.raises(LoadError, match="cannot be loaded"):
        load(broken)


def test_the_free_room_of_batches_counts_until_its_bytes_are_reserved(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, _ = load(llama_path)
    squeezed: list[Engine] = []
    monkeypatch.setattr(Engine, "slack_bytes", SLACK_BYTES)
    monkeypatch.setattr(Engine, "squeeze", lambda engine: squeezed.append(engine))
    available = pool.account.available_bytes
    assert pool.spare_bytes() == available - SLACK_BYTES
    pool.squeeze()
    assert squeezed == []
    kv = pool.account.kv["tiny"]
    kv.reserve(0, kv.cost.longest_within(available, available))
    assert pool.account.available_bytes < SLACK_BYTES
    pool.squeeze()
    assert len(squeezed) == 1
