"""A worker that runs a model's own code gets no secrets, and everyone is told that it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from service.commands.main import main
from tests.e2e import plain_http
from tests.e2e.daemon import running

CODE = """
import json, os, pathlib
from mlx_lm.models.llama import Model, ModelArgs
pathlib.Path(__file__).with_name("environ.json").write_text(json.dumps(dict(os.environ)))
"""
TOKENIZER = """
from transformers import PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast):
    pass
"""
SECRETS = {
    "HF_TOKEN": "hf_s3cr3t",
    "HUGGING_FACE_HUB_TOKEN": "hf_s3cr3t",
    "HF_TOKEN_PATH": "/home/me/s3cr3t",
    "OPENAI_API_KEY": "sk-s3cr3t",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cr3t",
    "PACKAGES": "https://me:s3cr3t@packages.example/simple",
}


@pytest.fixture
def folder(llama_path: Path, tmp_path: Path) -> Path:
    """A model whose architecture and tokenizer are code of its own."""
    folder = shutil.copytree(llama_path, tmp_path / "own")
    for name, fields in (
        ("config.json", {"model_type": "own", "model_file": "own.py"}),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own_tokenizer.Own"]}},
        ),
    ):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    (folder / "own.py").write_text(CODE)
    (folder / "own_tokenizer.py").write_text(TOKENIZER)
    return folder


def configure(folder: Path, **settings: object) -> str:
    lines = ["[[models]]", f'source = "{folder}"', *(f"{k} = {v}" for k, v in settings.items())]
    path = folder.parent / "mlxd.toml"
    path.write_text("\n".join(lines))
    return str(path)


def test_trusted_code_runs_without_secrets_also_after_a_crash(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, trust_remote_code="true")
    environ = {**SECRETS, "HF_HOME": str(tmp_path / "hub"), "HARMLESS": "kept"}
    seen = folder / "environ.json"
    with running(flags=["--config", config], environ=environ) as daemon:
        for restarts in range(2):
            told = json.loads(seen.read_text())
            assert not SECRETS.keys() & told.keys()
            assert "s3cr3t" not in seen.read_text()
            assert (told["HARMLESS"], told["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) == ("kept", "1")
            seen.unlink()
            body = {"model": "own", "messages": [{"role": "user", "content": "x"}]}
            answer = plain_http.post(
                f"{daemon.url}/v1/chat/completions", json={**body, "max_tokens": 4}
            )
            assert answer.status_code == 200
            if not restarts:
                os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
                daemon.wait_until("worker.restarts", be=1)
                daemon.wait_until("status", be="healthy")
    assert "runs code of  own (trust_remote_code)" in daemon.output


def test_without_trust_the_service_does_not_start_and_says_why(folder: Path) -> None:
    with running(folder, wait=False) as daemon:
        assert daemon.wait() != 0
    assert "trust_remote_code = true" in daemon.output
    assert not (folder / "environ.json").exists()


def test_the_doctor_names_trusted_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--config", configure(folder, trust_remote_code="true"), "--port=0"], {})
    assert "Python code in its folder runs" in capsys.readouterr().out
