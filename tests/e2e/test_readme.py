"""The README's examples do what the README says, with the built-in model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from service.config.model_settings import read_models
from service.config.settings import describe_settings
from tests.e2e.daemon import Daemon
from tests.sources import ROOT

TIMEOUT_S = 120
README_URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_example_prints_what_its_comments_say(demo: Daemon) -> None:
    [example] = blocks("python")
    expected = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert len(expected) == example.count("print(")
    assert README_URL in example
    outcome = subprocess.run(
        [sys.executable, "-c", example.replace(README_URL, demo.url)],
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
    [example] = blocks("toml")
    table = tomllib.loads(example)
    assert set(table) - {"models"} <= set(describe_settings())
    assert len(read_models(table["models"], "README.md")) > 1
