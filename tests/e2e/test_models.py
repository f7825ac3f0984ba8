"""Several models behind one port: loaded on request, unloaded by command, or refused clearly."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running


def ask(daemon: Daemon, model: str, max_tokens: int = 8) -> httpx.Response:
    body = {"model": model, "prompt": "hello", "max_tokens": max_tokens, "temperature": 0}
    return plain_http.post(f"{daemon.url}/v1/completions", json=body)


def order(daemon: Daemon, model: str, verb: str, body: Any = None) -> httpx.Response:
    url = f"{daemon.url}/admin/models/{model}/{verb}"
    return plain_http.post(url, json=body or {})


def statuses(daemon: Daemon) -> dict[str, str]:
    return {model["id"]: model["status"] for model in daemon.health()["models"]}


def configure(folder: Path, text: str) -> str:
    path = folder / "mlxd.toml"
    path.write_text(text)
    return str(path)


def table(path: Path, **settings: object) -> str:
    lines = [f'source = "{path}"', *(f"{name} = {value}" for name, value in settings.items())]
    return "\n".join(["[[models]]", *lines, ""])


@pytest.fixture(scope="module")
def shared(llama_path: Path, qwen_path: Path) -> Iterator[Daemon]:
    with running(llama_path, qwen_path) as daemon:
        yield daemon


@pytest.fixture
def two(shared: Daemon) -> Daemon:
    """A service of two models, of which the first is loaded and none is pinned, as at its start."""
    order(shared, "tiny-llama", "load")
    order(shared, "tiny-qwen", "pin", {"pinned": False})
    order(shared, "tiny-qwen", "unload")
    return shared


def test_a_model_is_loaded_by_its_first_request_once_for_all_that_wait(two: Daemon) -> None:
    assert statuses(two) == {"tiny-llama": "loaded", "tiny-qwen": "unloaded"}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(two, "tiny-qwen"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    assert statuses(two) == {"tiny-llama": "loaded", "tiny-qwen": "loaded"}
    listed = plain_http.get(f"{two.url}/v1/models").json()["data"]
    assert [(m["id"], m["status"], m["loaded"]) for m in listed] == [
        ("tiny-llama", "loaded", True),
        ("tiny-qwen", "loaded", True),
    ]


@pytest.fixture(scope="module")
def idle(
    llama_path: Path, qwen_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A service of a short context; of its two models one is unloaded when it is not used."""
    tables = [table(llama_path, pinned="true", idle_s=0.2), table(qwen_path, idle_s=0.2)]
    config = configure(tmp_path_factory.mktemp("idle"), "\n".join(tables))
    with running(flags=["--config", config, "--context-limit-tokens", "128"]) as daemon:
        yield daemon


def test_the_context_of_a_model_is_listed_before_it_is_loaded(
    idle: Daemon, qwen_path: Path
) -> None:
    models = plain_http.get(f"{idle.url}/v1/models").json()["data"]
    assert [model["loaded"] for model in models] == [True, False]
    for model in models:
        assert (model["context_length"], model["max_model_len"]) == (128, 128)
    assert plain_http.get(f"{idle.url}/models").json()["data"] == models
    assert plain_http.get(f"{idle.url}/models/{qwen_path.name}").json() == models[1]


def test_a_model_is_loaded_unloaded_and_pinned_by_order(two: Daemon) -> None:
    loaded = order(two, "tiny-qwen", "load").json()
    assert (loaded["id"], loaded["status"], loaded["pinned"]) == ("tiny-qwen", "loaded", False)
    assert order(two, "tiny-qwen", "pin").json()["pinned"] is True
    assert order(two, "tiny-qwen", "pin", {"pinned": False}).json()["pinned"] is False
    assert order(two, "tiny-qwen", "unload").json()["status"] == "unloaded"
    assert statuses(two)["tiny-qwen"] == "unloaded"
    assert ask(two, "tiny-qwen").status_code == 200
    unknown = order(two, "no/such", "load")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_busy_model_is_not_unloaded(two: Daemon) -> None:
    body = {"model": "default", "prompt": "x", "max_tokens": 3000, "stream": True}
    body["ignore_eos"] = True
    url = f"{two.url}/v1/completions"
    with plain_http.stream("POST", url, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        refused = order(two, "tiny-llama", "unload")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_busy")
        assert next(lines) is not None
    two.wait_until("requests.running", be=0)


DAMAGED = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def damaged(
    llama_path: Path, qwen_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Path]]:
    """A service of a model, and of one for each file that is cut in half; and their folder."""
    folder = tmp_path_factory.mktemp("damaged")
    broken = [shutil.copytree(qwen_path, folder / name) for name in DAMAGED]
    for path in broken:
        file = path / path.name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with running(llama_path, *broken) as daemon:
        yield daemon, folder


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_model_that_cannot_be_loaded_says_why_and_the_others_serve(
    damaged: tuple[Daemon, Path], qwen_path: Path, damage: str
) -> None:
    daemon, folder = damaged
    for _ in range(2):
        refused = ask(daemon, damage)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "model_load_failed")
        assert refused.headers["x-should-retry"] == "false"
        assert "cannot be loaded" in error["message"]
    assert order(daemon, damage, "load").json()["error"]["code"] == "model_load_failed"
    health = daemon.health()
    [model] = [model for model in health["models"] if model["id"] == damage]
    assert health["status"] == "healthy"
    assert (model["status"], "cannot be loaded" in model["reason"]) == ("failed", True)
    assert ask(daemon, "tiny-llama").status_code == 200
    shutil.rmtree(folder / damage)
    shutil.copytree(qwen_path, folder / damage)
    assert order(daemon, damage, "load").json()["status"] == "loaded"
    assert ask(daemon, damage).status_code == 200


# The values of a model's own generation_config.json; one of them cannot be.
NAMED = {"temperature": 0.7, "top_k": 1, "do_sample": False, "max_new_tokens": 3, "top_p": 9}


@pytest.fixture(scope="module")
def configured(
    llama_path: Path, qwen_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Path]]:
    """A service whose models each have another table, and the folder of the model `changing`."""
    folder = tmp_path_factory.mktemp("configured")
    template = folder / "shout.jinja"
    template.write_text("{{ messages[-1]['content'] | upper }}")
    changing = shutil.copytree(llama_path, folder / "changing")
    sampled = shutil.copytree(llama_path, folder / "sampled")
    (sampled / "generation_config.json").write_text(json.dumps(NAMED))
    tables = [
        table(llama_path, aliases='["small"]', context_limit_tokens=64),
        table(qwen_path, preload="true", chat_template=f'"{template}"'),
        "[models.sampling]\nmax_tokens = 5\ntemperature = 0.0\n",
        table(sampled, id='"file"'),
        table(sampled, id='"off"', generation_config="false"),
        table(sampled, id='"configured"'),
        "[models.sampling]\ntop_k = 50\n",
        table(changing),
    ]
    with running(flags=["--config", configure(folder, "\n".join(tables))]) as daemon:
        yield daemon, changing


def test_a_models_table_says_how_it_is_served(configured: tuple[Daemon, Path]) -> None:
    daemon, _ = configured
    found = statuses(daemon)
    assert (found["tiny-llama"], found["tiny-qwen"]) == ("loaded", "loaded")
    assert ask(daemon, "small").json()["model"] == "tiny-llama"
    long = ask(daemon, "small", max_tokens=100)
    assert long.json()["usage"]["total_tokens"] == 64
    chat = {"model": "tiny-qwen", "messages": [{"role": "user", "content": "hello"}]}
    said = plain_http.post(f"{daemon.url}/v1/chat/completions", json=chat).json()
    assert said["usage"]["completion_tokens"] == 5
    plain = {"model": "tiny-qwen", "prompt": "HELLO"}
    continued = plain_http.post(f"{daemon.url}/v1/completions", json=plain).json()
    text = continued["choices"][0]["text"]
    assert said["choices"][0]["message"]["content"] == text.removeprefix(" ")


def test_what_has_changed_on_disk_is_there_after_unload_and_load(
    configured: tuple[Daemon, Path], qwen_path: Path
) -> None:
    daemon, folder = configured
    before = ask(daemon, "changing").json()["choices"][0]["text"]
    shutil.rmtree(folder)
    shutil.copytree(qwen_path, folder)
    assert ask(daemon, "changing").json()["choices"][0]["text"] == before
    order(daemon, "changing", "unload")
    order(daemon, "changing", "load")
    models = plain_http.get(f"{daemon.url}/v1/models").json()["data"]
    [model] = [model for model in models if model["id"] == "changing"]
    assert model["family"] == "qwen3"
    assert ask(daemon, "changing").json()["choices"][0]["text"] != before


def test_generation_config_is_below_the_configuration_and_the_request(
    configured: tuple[Daemon, Path],
) -> None:
    daemon, _ = configured

    def texts(model: str, **parameters: float) -> set[str]:
        url = f"{daemon.url}/v1/completions"
        body = {"model": model, "prompt": "hello", "max_tokens": 8, **parameters}
        answers = [plain_http.post(url, json={**body, "seed": seed}) for seed in range(4)]
        return {answer.json()["choices"][0]["text"] for answer in answers}

    assert len(texts("file")) == 1
    assert len(texts("file", top_k=0)) == 4
    assert len(texts("off")) == 4
    assert len(texts("configured")) == 4
    listed = plain_http.get(f"{daemon.url}/v1/models").json()["data"]
    shown = {model["id"]: model["default_parameters"] for model in listed}
    assert shown["file"] == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 1,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": None,
    }
    assert (shown["off"]["temperature"], shown["off"]["top_k"]) == (1.0, 0)
    assert (shown["configured"]["temperature"], shown["configured"]["top_k"]) == (0.7, 50)
    daemon.wait_line("generation_config.json: top_p is ignored")


def test_an_unused_model_is_unloaded_after_its_time_and_a_pinned_one_is_not(idle: Daemon) -> None:
    assert ask(idle, "tiny-qwen").status_code == 200
    idle.wait_for(lambda: statuses(idle)["tiny-qwen"] == "unloaded")
    assert statuses(idle)["tiny-llama"] == "loaded"
    assert ask(idle, "tiny-qwen").status_code == 200
    # As at its start, for the other tests.
    idle.wait_for(lambda: statuses(idle)["tiny-qwen"] == "unloaded")


def test_a_new_worker_loads_what_the_last_one_had(two: Daemon) -> None:
    order(two, "tiny-qwen", "load")
    order(two, "tiny-qwen", "pin")
    order(two, "tiny-llama", "unload")
    os.kill(two.health()["worker"]["pid"], signal.SIGKILL)
    two.wait_until("worker.restarts", be=1)
    two.wait_until("status", be="healthy")
    models = {model["id"]: model for model in two.health()["models"]}
    assert models["tiny-qwen"]["status"] == "loaded"
    assert models["tiny-qwen"]["pinned"] is True
    assert models["tiny-llama"]["status"] == "unloaded"
