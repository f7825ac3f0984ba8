"""The examples of the README, and of deploy/README.md, do what these say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.config.model_settings import read_models
from service.config.settings import describe_settings
from tests.e2e.daemon import Daemon, running
from tests.e2e.embedders import configure, table
from tests.sources import ROOT

DOCUMENTS = ("README.md", "deploy/README.md")
TIMEOUT_S = 120
README_URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The documents' code blocks in one language."""
    texts = [(ROOT / name).read_text("utf-8") for name in DOCUMENTS]
    return re.findall(rf"```{language}\n(.*?)```", "\n".join(texts), re.DOTALL)


def example_with(language: str, part: str) -> str:
    """The one code block of a language that has this part."""
    [example] = [block for block in blocks(language) if part in block]
    return example


def test_the_python_example_prints_what_its_comments_say(demo: Daemon) -> None:
    check_prints(example_with("python", "chat.completions"), demo)


def test_the_retrieval_example_finds_the_text(tmp_path: Path, minilm_path: Path) -> None:
    model = table("minilm", minilm_path, kind='"embedding"')
    with running(flags=configure(tmp_path, model)) as daemon:
        check_prints(example_with("python", "InMemoryVectorStore"), daemon)


def check_prints(example: str, daemon: Daemon) -> None:
    """Check that an example prints what its comments say."""
    expected = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert len(expected) == example.count("print(")
    assert README_URL in example
    outcome = subprocess.run(
        [sys.executable, "-c", example.replace(README_URL, daemon.url)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == expected


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_streams_an_answer(demo: Daemon) -> None:
    [example] = [block for block in blocks("sh") if block.startswith("curl")]
    assert README_URL in example
    outcome = subprocess.run(
        ["sh", "-c", example.replace(README_URL, demo.url)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Hello" in outcome.stdout
    assert outcome.stdout.endswith("data: [DONE]\n\n")


def test_the_configuration_example_has_only_settings_that_exist() -> None:
    examples = [tomllib.loads(block) for block in blocks("toml")]
    assert len(examples) > 1
    for settings in examples:
        assert set(settings) - {"models"} <= set(describe_settings())
        assert len(read_models(settings["models"], "README.md")) > 1
